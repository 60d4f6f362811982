"""The schema of recordings in Parquet, and the names of their files.

A recording is a folder with a file for each metric and day (UTC). DuckDB and Polars can read it directly, because it is
partitioned like a table of Hive:

    <folder>/_kepler_recording.json                                   format and version
    <folder>/metric=<name>/day=<YYYY-MM-DD>/<mark>-<number>.parquet   samples

A recording can also be a single file, which has an additional column `metric`. Each row is a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import RecordingError, UsageError
from kepler_core.parquet.locations import opened_file

VERSION = 1
"""Version of the schema. It increases with each change that older readers would misread."""
VERSION_KEY = b"kepler_core.recording_version"
"""Key in the metadata of each Parquet file of a recording. Its value is the version of the file's schema."""
SUFFIX = ".parquet"
MARKER = "_kepler_recording.json"
MAX_MARKER_BYTES = 2**16
COLUMNS = ("labels", "timestamp", "value")
"""The columns that are read. `labels` has the series' labels as a JSON object with sorted keys. `timestamp` has the
time with microseconds in UTC. `value` has the value in the exporter's unit. The column `instance` repeats the label of
this name, so that queries can filter by it."""
METRIC_COLUMN = "metric"


class Marker(msgspec.Struct):
    """The content of the file that marks a folder as a recording."""

    format: str = "kepler-core recording"
    version: int = VERSION


def is_parquet(path: str | Path) -> bool:
    """Return whether a path has the suffix of a Parquet folder or file."""
    return str(path).rstrip("/").endswith(SUFFIX)


def folder_of(metric: str, day: str) -> str:
    """Return the folder of the files of a metric and day, relative to the recording's folder."""
    return f"metric={quote(metric, safe=':')}/day={day}"


def metric_of(location: str) -> str | None:
    """Return the metric that the name of a file's folder states; None if no folder of the path names a metric."""
    names = [part.removeprefix("metric=") for part in location.split("/")[:-1] if part.startswith("metric=")]
    return unquote(names[-1]) if names else None


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as they are written in the column `labels`."""
    return msgspec.json.encode(dict(labels), order="sorted").decode()


def check_folder(folder: Path) -> None:
    """Check that a recording can be written to a folder, or added to the recording in it. Raise `UsageError` if not."""
    if not folder.resolve().parent.is_dir():
        raise UsageError(f"cannot write {folder}: there is no folder {folder.parent}")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"cannot write {folder}: it is a file; samples are only added to a folder")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).exists():
            raise UsageError(f"cannot write {folder}: it is a folder with other files")
        check_marker(str(folder))


def check_marker(folder: str) -> None:
    """Raise `RecordingError` if a folder is not marked as a recording of a version that can be read."""
    try:
        with opened_file(f"{folder}/{MARKER}") as content:
            marker = decode_json(content.read(MAX_MARKER_BYTES), Marker)
    except FileNotFoundError:
        raise RecordingError(
            f"no recording: the folder has no file {MARKER}, which `query` and `convert` write", document=folder
        ) from None
    except (OSError, DocumentError) as error:
        raise RecordingError(f"{MARKER}: {error}", document=folder) from error
    check_version(marker.version, folder)


def check_version(version: int, path: str) -> None:
    """Raise `RecordingError` if the version of the schema cannot be read."""
    if version != VERSION:
        raise RecordingError(
            f"version {version} of the Parquet schema; this Kepler Core reads version {VERSION}", document=path
        )
