"""The files of a pipeline's next version, in which some models of the earlier version are replaced."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from kepler_core.models.power_model import METADATA_FILE
from kepler_core.store.layout import NODE_TYPE_INDEX, REPORT_FILE, pipeline_files
from kepler_core.store.manifest import MANIFEST_FILE
from kepler_core.store.models import StoredModel, read_models
from kepler_core.store.snapshot import Snapshot

Model = tuple[Mapping[str, Any], Mapping[str, bytes]]
"""Metadata and files of a model. The files are a mapping from name, relative to the model's folder, to content."""


def next_version_files(
    base: Snapshot, models: Mapping[str, Model], additions: Mapping[str, Any], kept: Sequence[StoredModel] = ()
) -> dict[str, bytes]:
    """Return the files of the version that follows `base`, as a mapping from path in the pipeline to content.

    `models` maps the path of each new model to the model. `kept` are models that are copied unchanged, also models that
    another program has stored. `additions` are added to the pipeline's `metadata.json`. All other files, such as the
    profiles of node types, come from `base`. Only the report is left out: it describes the models of `base`.
    """
    metadata = base.read_json(METADATA_FILE) | {"last_update_time": timestamp()} | dict(additions)
    files = pipeline_files(
        [models[path] for path in sorted(models)],
        metadata,
        base.read_json(NODE_TYPE_INDEX),
        [(entry.table_row, entry.files()) for entry in kept if entry.path not in models],
    )
    base_models = {entry.path for entry in read_models(base)}
    for name in sorted(base.names - files.keys() - {MANIFEST_FILE, REPORT_FILE}):
        belongs_to_model = any(name.startswith((f"{path}/", f"{path}.")) for path in base_models)
        if not belongs_to_model and not name.endswith("_model_metadata.csv"):
            files[name] = base.read(name)
    return files


def read_files(entry: StoredModel) -> dict[str, bytes]:
    """Return all files of a stored model, as a mapping from name, relative to the model's folder, to content."""
    start = entry.path + "/"
    names = (name for name in entry.snapshot.names if name.startswith(start))
    return {name.removeprefix(start): entry.snapshot.read(name) for name in sorted(names)}


def timestamp() -> str:
    """Return the current time in UTC as "YYYY-MM-DD hh:mm:ss", the form used in metadata and decisions."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
