"""A model store in a local folder.

    <store>/<pipeline>                  a link to the current version of the pipeline:
    <store>/.versions/<pipeline>/<n>/   metadata.json, node_type_index.json, …_model_metadata.csv,
                                        <source>/<output_type>/<feature_group>/<Trainer>_<node_type>…
    <store>/.staging/                   versions that are being written

Publishing writes a version to `.staging`, flushes it to the disk, renames it into `.versions` and
then renames a new link over the old one. A reader resolves the link once and sees one version; a
writer that is killed leaves the current version as it was.
"""

from __future__ import annotations

import csv
import fcntl
import io
import os
import re
import shutil
import uuid
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import msgspec

from kepler_core.errors import StoreError
from kepler_core.models.power_model import METADATA_FILE, MODEL_FILE, WEIGHT_FILE, PowerModel, load_model
from kepler_core.names import check_name
from kepler_core.vocabulary import OUTPUT_TYPES

VERSIONS = ".versions"
STAGING = ".staging"
LOCK = ".lock"
NODE_TYPE_INDEX = "node_type_index.json"

# A fixed date in archives: the same model must give the same bytes.
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)

_CSV_FIRST = ("model_name", "trainer", "feature_group", "node_type", "mae", "mape")


@attrs.frozen
class ModelEntry:
    """A model in the store."""

    pipeline: str
    path: Path
    metadata: Mapping[str, Any]

    @property
    def source(self) -> str:
        return self.path.parts[-4]

    @property
    def output_type(self) -> str:
        return self.path.parts[-3]

    @property
    def feature_group(self) -> str:
        return self.path.parts[-2]

    def load(self) -> PowerModel:
        return load_model(self.path)


class Store:
    """A folder of pipelines. Making the object touches nothing."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", str(root)):
            raise StoreError(f"{root}: only local folders can be a store")
        self.root = Path(root)

    # --- reading ---

    def pipelines(self) -> list[str]:
        """Names of the published pipelines."""
        try:
            entries = sorted(self.root.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{self.root}: {error.strerror}") from error
        return [e.name for e in entries if not e.name.startswith(".") and (e / METADATA_FILE).is_file()]

    def path(self, pipeline: str) -> Path:
        """The folder of a pipeline's current version, resolved; it stays one version while in use."""
        link = self.root / _checked_name(pipeline)
        try:
            return link.resolve(strict=True)
        except OSError as error:
            known = ", ".join(self.pipelines()) or "none"
            raise StoreError(f"{self.root}: no pipeline {pipeline!r} (there: {known})") from error

    def models(self, pipeline: str) -> list[ModelEntry]:
        """The models of a pipeline's current version that Kepler Core can load."""
        root = self.path(pipeline)
        entries = []
        for model in sorted(root.glob(f"*/*/*/*/{MODEL_FILE}")):
            folder = model.parent
            if folder.parts[-3] not in OUTPUT_TYPES:
                continue
            entries.append(ModelEntry(pipeline, folder, read_json(folder / METADATA_FILE)))
        return entries

    def versions(self, pipeline: str) -> list[int]:
        """Numbers of the versions that are kept, oldest first."""
        folder = self.root / VERSIONS / _checked_name(pipeline)
        try:
            return sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{folder}: {error.strerror}") from error

    def current_version(self, pipeline: str) -> int | None:
        """The number of the version that is served; None if it was not published by us."""
        path = self.path(pipeline)
        versions = (self.root / VERSIONS / pipeline).resolve()
        return int(path.name) if path.parent == versions and path.name.isdigit() else None

    # --- writing ---

    def publish(self, pipeline: str, files: Mapping[str, bytes]) -> int:
        """Make these files (by path below the pipeline) the current version; its number.

        All or nothing: on any error the store is as it was.
        """
        _checked_name(pipeline)
        link = self.root / pipeline
        try:
            with self._writing() as staging:
                _refuse_foreign(link)
                _write_tree(staging, files)
                versions = self.root / VERSIONS / pipeline
                versions.mkdir(parents=True, exist_ok=True)
                number = max(self.versions(pipeline), default=0) + 1
                os.rename(staging, versions / str(number))
                _flush_folder(versions)
                staging.mkdir()
                try:
                    self._point(pipeline, number, staging)
                except BaseException:
                    # or the version could be rolled back to although nobody was told of it
                    shutil.rmtree(versions / str(number), ignore_errors=True)
                    raise
                return number
        except OSError as error:
            raise _store_error(self.root, error) from error

    def roll_back(self, pipeline: str, version: int) -> None:
        """Make an earlier version the current one."""
        if version not in self.versions(pipeline):
            kept = ", ".join(map(str, self.versions(pipeline))) or "none"
            raise StoreError(f"{self.root}: pipeline {pipeline!r} has no version {version} (kept: {kept})")
        try:
            with self._writing() as staging:
                self._point(pipeline, version, staging)
        except OSError as error:
            raise _store_error(self.root, error) from error

    def check_writable(self, pipeline: str) -> None:
        """`StoreError` now rather than after an hour of training. Makes the store's folder."""
        _refuse_foreign(self.root / _checked_name(pipeline))
        try:
            with self._writing() as staging:
                _write_file(staging / "probe", b"")
        except OSError as error:
            raise _store_error(self.root, error) from error

    @contextmanager
    def _writing(self) -> Iterator[Path]:
        """A staging folder, with the store locked against other writers."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / LOCK).open("a+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel whatever happens to us
            staging_root = self.root / STAGING
            # only a writer that was killed leaves something here: nobody else writes now
            shutil.rmtree(staging_root, ignore_errors=True)
            staging = staging_root / uuid.uuid4().hex
            staging.mkdir(parents=True)
            try:
                yield staging
            finally:
                shutil.rmtree(staging_root, ignore_errors=True)

    def _point(self, pipeline: str, version: int, staging: Path) -> None:
        # the target is relative to where the link ends up, so that a store can be moved
        os.symlink(os.path.join(VERSIONS, pipeline, str(version)), staging / "link")
        os.replace(staging / "link", self.root / pipeline)
        _flush_folder(self.root)


def _refuse_foreign(link: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise StoreError(f"{link} is a folder that was not published by kepler-model; choose another name")


def _checked_name(pipeline: str) -> str:
    try:
        return check_name(pipeline)
    except ValueError as error:
        raise StoreError(f"pipeline {error}") from error


def _store_error(root: Path, error: OSError) -> StoreError:
    return StoreError(f"cannot write the store {root}: {error.strerror or error}; it is as it was")


def _write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    made = {folder}
    for name, content in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise StoreError(f"{name!r} is outside of the pipeline")
        path.parent.mkdir(parents=True, exist_ok=True)
        parent = path.parent
        while parent not in made:
            made.add(parent)
            parent = parent.parent
        _write_file(path, content)
    for parent in made:
        _flush_folder(parent)


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `StoreError` if it is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise StoreError(f"{path}: damaged: {error}") from error


# --- the layout of a pipeline ---------------------------------------------------------------------


def pipeline_files(
    models: Sequence[tuple[Mapping[str, Any], Mapping[str, bytes]]],
    metadata: Mapping[str, Any],
    node_types: Mapping[str, Any],
) -> dict[str, bytes]:
    """All files of a pipeline, by path, from its models (metadata, files) in a stable order."""
    files: dict[str, bytes] = {
        METADATA_FILE: _json(metadata),
        NODE_TYPE_INDEX: _json(node_types),
    }
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for model, content in models:
        name = str(model["model_name"])
        base = model_path(model)
        for file, data in sorted(content.items()):
            files[f"{base}/{file}"] = data
        files[f"{base}.zip"] = zip_bytes(content)
        if WEIGHT_FILE in content:
            files[f"{base}.json"] = content[WEIGHT_FILE]
        assert name == base.rpartition("/")[2]
        tables.setdefault(f"{model['source']}_{model['output_type']}_model_metadata.csv", []).append(model)
    for table, rows in sorted(tables.items()):
        files[table] = _csv(rows)
    return files


def model_path(model: Mapping[str, Any]) -> str:
    """A model's folder below its pipeline."""
    return f"{model['source']}/{model['output_type']}/{model['feature_group']}/{model['model_name']}"


def zip_bytes(files: Mapping[str, bytes]) -> bytes:
    """A zip archive that is the same bytes for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _ZIP_DATE), files[name], zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _json(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    errors = sorted({key for row in rows for key in row if key.endswith(("_mae", "_mape"))})
    text = io.StringIO()
    writer = csv.DictWriter(text, [*_CSV_FIRST, *errors], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
