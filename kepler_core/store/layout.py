"""The files of a pipeline: their paths, and zip archives with reproducible bytes."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kepler_core.honesty.document import Twin
from kepler_core.json_files import indented_json
from kepler_core.models.power_model import HELD_OUT_FILE, METADATA_FILE, WEIGHT_FILE

NODE_TYPE_INDEX = "node_type_index.json"
REPORT_FILE = "report.html"
"""Name of the file with the report of the training or retraining that made the version. A listener may add this
file."""
REPORT_LISTENER = "kepler-core:report"
"""Full name of the listener that adds `REPORT_FILE`."""
REPORT_SETTING = "KEPLER_REPORT"
"""Setting that turns the report off if it is false."""

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Modification date of all files in archives. It never changes, so that archives of equal files are equal."""

_CSV_FIRST = ("model_name", "trainer", "feature_group", "node_type", "mae", "mape")


def pipeline_files(
    models: Sequence[tuple[Mapping[str, Any], Mapping[str, bytes]]],
    metadata: Mapping[str, Any],
    node_types: Mapping[str, Any],
    kept: Sequence[tuple[Mapping[str, Any], Mapping[str, bytes]]] = (),
) -> dict[str, bytes]:
    """Return all files of a pipeline by path, in a stable order.

    `models` are new models, each with its metadata and its files by name. `kept` are models of the
    pipeline's earlier version, each with its metadata and its files by path below the pipeline.
    """
    files: dict[str, bytes] = {
        METADATA_FILE: indented_json(metadata),
        NODE_TYPE_INDEX: indented_json(node_types),
    }
    for _, content in kept:
        files.update(content)
    for model, content in models:
        name = str(model["model_name"])
        base = model_path(model)
        for file, data in sorted(content.items()):
            files[f"{base}/{file}"] = data
        files[f"{base}.zip"] = zip_bytes({file: data for file, data in content.items() if file != HELD_OUT_FILE})
        if WEIGHT_FILE in content:
            files[f"{base}.json"] = content[WEIGHT_FILE]
        assert name == base.rpartition("/")[2]
    return files | model_tables([model for model, _ in (*kept, *models)])


def model_tables(models: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """Return tables with the metadata of a pipeline's models: one table per energy source and output type.

    The key of a table is its path: `<source>_<output_type>_model_metadata.csv`.
    """
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for model in models:
        tables.setdefault(f"{model['source']}_{model['output_type']}_model_metadata.csv", []).append(model)
    return {table: _csv(rows) for table, rows in sorted(tables.items())}


def model_path(model: Mapping[str, Any]) -> str:
    """Return the path of a model's folder below its pipeline."""
    return f"{model['source']}/{model['output_type']}/{model['feature_group']}/{model['model_name']}"


def twin_path(path: str, twin: Twin) -> str:
    """Return the path of a model's twin. `path` is the path of the model, below its pipeline or below the store.

    The model and its twin are in the folder of the same energy source and output type. The names in `twin` are not
    checked.
    """
    return f"{path.rsplit('/', maxsplit=2)[0]}/{twin.feature_group}/{twin.model_name}"


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive of `files`, which maps paths to contents. Archives of equal files have equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    errors = sorted({key for row in rows for key in row if key.endswith(("_mae", "_mape"))})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_CSV_FIRST, *errors], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
