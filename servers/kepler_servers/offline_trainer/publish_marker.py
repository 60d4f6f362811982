"""Ensure that each job publishes at most one version, even if processes are killed at any moment.

Each pipeline version that the offline trainer publishes contains the file `training_job.json` with the
job's id. If a training process is killed while it publishes, the next attempt of the job searches the published
versions for a file with the job's id. If it finds one, it does not train again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import StoreError
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.plugins.hooks import hookimpl
from kepler_core.store import Store

MARKER_FILE = "training_job.json"


class _MarkerContent(msgspec.Struct):
    job: str


class PublishMarker:
    """Listener that adds the file with the job's id to a pipeline before the pipeline is published."""

    def __init__(self, job: str) -> None:
        self._job = job

    @hookimpl
    def kepler_publishing(self, files: dict[str, bytes]) -> None:
        files[MARKER_FILE] = msgspec.json.encode(_MarkerContent(self._job))


def published_version(store: Store, pipeline: str, job: str) -> int | None:
    """Return the version that a job published, or None if the job published no version.

    If this version is newer than the current version of the pipeline, the function makes it the current version. The
    reason: the training process may have been killed after it wrote the version, and before it made it current.
    """
    for version in reversed(store.versions(pipeline)):
        snapshot = store.snapshot(pipeline, version)
        if MARKER_FILE not in snapshot.names or _job_in(snapshot.read(MARKER_FILE)) != job:
            continue
        if version > (_current_version(store, pipeline) or 0):
            store.roll_back(pipeline, version)
        return version
    return None


def recovered_report(store: Store, pipeline: str, version: int) -> Mapping[str, Any]:
    """Return the parts of a training's report that the metadata of the published version contain."""
    metadata = store.snapshot(pipeline, version).read_json(METADATA_FILE)
    lists = {key: metadata.get(key, []) for key in ("failed", "skipped", "notes")}
    return {"pipeline": pipeline, "store": store.location, "version": version, **lists}


def _job_in(content: bytes) -> str | None:
    try:
        return decode_json(content, _MarkerContent).job
    except DocumentError:
        return None


def _current_version(store: Store, pipeline: str) -> int | None:
    try:
        return store.current_version(pipeline)
    except StoreError:  # the store has no current version of this pipeline yet
        return None
