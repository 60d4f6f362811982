"""Read the model at a configured URL. If the model contains only pickles, read linear weights instead.

The file at the URL is the zip file of a model, or the weights of a model as JSON. No pickle is ever loaded. If the zip
file contains no model of Kepler Core, linear weights are searched in these places, in this order:

1. in the zip file
2. in the file in the same folder that has the name of the zip file, but the suffix `.json`
3. in the files of the trainer SGDRegressorTrainer for the same node type, in the same folder
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import msgspec

from kepler_core.documents import decode_object
from kepler_core.errors import KeplerError, ModelError, StoreError
from kepler_core.messages import quoted
from kepler_core.models.kepler_weights import LINEAR_TRAINER
from kepler_core.models.linear_weights import LinearWeights, read_linear_weights
from kepler_core.models.power_model import MAX_DOCUMENT_BYTES, METADATA_FILE, MODEL_FILE, WEIGHT_FILE
from kepler_core.names import is_name
from kepler_core.selection import Catalogue, ModelRequest, Selection
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.selection.stand_in import WHAT_TO_DO
from kepler_core.store.documents import decode_node_types
from kepler_core.store.download import download
from kepler_core.store.layout import NODE_TYPE_INDEX
from kepler_core.store.model_archive import ModelArchive
from kepler_core.store.snapshot import Snapshot
from kepler_core.urls import beside, file_path, is_file_url, location_parts, shown_location
from kepler_core.vocabulary import OUTPUT_TYPES, PLATFORM_COMPONENTS, OutputType
from kepler_profiler.similarity import SpecTable

log = logging.getLogger(__name__)

URL_TIMEOUT_SECONDS = 120.0
"""Time limit for the download of one file."""
MAX_ARCHIVE_BYTES = 64 * 2**20

_BLANKS = 1000
"""Maximum number of blanks before the JSON object in a weight file."""
_PIPELINE = "configured"
_MODEL_NAME = re.compile(r"[^/]+_(\d{1,9})")


@attrs.frozen
class InitUrl:
    """The configured URL of a model, and the kind of requests that the model answers."""

    key: str
    """The configuration key, e.g. NODE_COMPONENTS_INIT_URL."""
    url: str
    """URL or local path."""
    output_type: OutputType
    total: bool
    """Whether the model is for the power of the whole platform. Otherwise it is for the power of components."""

    @property
    def where(self) -> str:
        """The URL as messages show it, i.e. without passwords."""
        return shown_location(self.url)

    def place(self) -> tuple[str, str, str] | None:
        """Return the energy source, output type and feature group in the URL; None if the URL does not contain them.

        The URL of a model in a pipeline has the form `…/<energy source>/<output type>/<feature group>/<file>`.
        """
        parts = location_parts(self.url)
        return (parts[-4], parts[-3], parts[-2]) if len(parts) >= 4 and parts[-3] in OUTPUT_TYPES else None


@attrs.frozen(eq=False)
class UrlModels:
    """The model at a URL, and linear weights that replace this model if it contains only pickles."""

    catalogue: Catalogue
    named: str
    """Name of the model at the URL: `<trainer>_<node type>`."""

    def select(self, request: ModelRequest) -> Selection:
        """Select the model, or the linear weights that replace it. See `Catalogue.select`."""
        selection = self.catalogue.select(request)
        if selection.model.name == self.named:
            return selection
        named = next(model for model in self.catalogue.models if model.name == self.named)
        return attrs.evolve(selection, stands_in_for=named)


@attrs.frozen(eq=False)
class _Model:
    """The metadata of a model and, if they exist, its linear weights or its archive with a model of Kepler Core."""

    metadata: Mapping[str, Any]
    weights: LinearWeights | None = None
    archive: ModelArchive | None = None
    is_pickled: bool = False
    """Whether the model's zip file contains only pickles, and no model of Kepler Core."""


def read_url_models(init: InitUrl, source: str) -> UrlModels:
    """Read the model at a URL. If the model contains only pickles, read linear weights that are used instead.

    `source` is the energy source of a model whose metadata name no energy source. Raises `StoreError` if the URL
    cannot be read, or if neither a model of Kepler Core nor linear weights are found.
    """
    content = fetch(init.url, MAX_ARCHIVE_BYTES)
    if content[:_BLANKS].lstrip().startswith(b"{"):
        named, reasons = _weights_file(init, content)
    else:
        named, reasons = _archived_model(init, content)
    if named.archive is not None:
        return _url_models(init, source, [named], None)
    models = [named]
    if named.weights is None:
        stand_in = _stand_in(init, named, reasons)
        if stand_in.metadata["model_name"] == named.metadata["model_name"]:
            models = [attrs.evolve(stand_in, is_pickled=True)]
        else:
            models.append(stand_in)
    for model in models:
        if model.weights is not None and (PLATFORM_COMPONENTS[0] in model.weights.components) != init.total:
            components = ", ".join(model.weights.components)
            raise StoreError(f"{init.where}: weights for {components}, which is not the power that {init.key} is for")
    return _url_models(init, source, models, _node_type_index(init))


def fetch(url: str, max_bytes: int) -> bytes:
    """Return the content of the file at a URL or local path. Raises `StoreError` if it cannot be read."""
    if url.lower().startswith(("http://", "https://")):
        return download(url, seconds=URL_TIMEOUT_SECONDS, max_bytes=max_bytes)
    path = Path(file_path(url) if is_file_url(url) else url)
    try:
        if path.stat().st_size > max_bytes:
            raise StoreError(f"{shown_location(url)}: more than {max_bytes} bytes")
        if not path.is_file():
            raise StoreError(f"{shown_location(url)}: not a file")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: the name is not a valid file name, e.g. it has a null byte
        raise StoreError(f"{shown_location(url)}: {getattr(error, 'strerror', None) or error}") from error


# --- the model at the URL ---


def _archived_model(init: InitUrl, content: bytes) -> tuple[_Model, list[str]]:
    """Return the model in a zip file, and the reasons why its files contain no linear weights.

    There is one reason for each file. The list is empty if the zip file has a model of Kepler Core or linear weights.
    """
    files = ModelArchive(content, init.where)
    metadata = decode_object(files[METADATA_FILE])
    if MODEL_FILE in files:
        return _Model(metadata, archive=files.without_other_files()), []
    name = str(metadata.get("model_name") or _name_in_url(init))
    metadata["model_name"] = name
    reasons: list[str] = []
    for weights in _weights(_files_with_weights(init, files, name), reasons):
        return _Model(metadata, weights, is_pickled=True), []
    return _Model(metadata, is_pickled=True), reasons


def _files_with_weights(init: InitUrl, files: ModelArchive, name: str) -> Iterator[tuple[str, bytes | KeplerError]]:
    """Yield the name and the content of each file that may contain the linear weights of a model with pickles.

    `files` are the files in the model's zip file. `name` is the name of the model.
    """
    if WEIGHT_FILE in files:
        yield WEIGHT_FILE, files[WEIGHT_FILE]
    # In archives of kepler-model-server, a file `<model name>.json` contains weights or a list of pickle files.
    if (member := f"{name}.json") in files and b"All_Weights" in (content := files[member]):
        yield member, content
    yield _fetch_beside(init, Path(location_parts(init.url)[-1]).stem + ".json")


def _weights_file(init: InitUrl, content: bytes) -> tuple[_Model, list[str]]:
    """Return the model whose weights are in a JSON file, and the reason if they are not linear weights.

    The reason is a list with one text; the list is empty if the weights are linear.
    """
    if len(content) > MAX_DOCUMENT_BYTES:
        raise StoreError(f"{init.where}: more than {MAX_DOCUMENT_BYTES} bytes")
    document = decode_object(content)
    metadata: dict[str, Any] = {
        "model_name": str(document.get("model_name") or _name_in_url(init)),
        "machine_spec": spec if isinstance(spec := document.get("machine_spec"), dict) else {},
    }
    if isinstance(mae := document.get("mae"), int | float):
        metadata["mae"] = mae
    try:
        weights = read_linear_weights(content)
    except ModelError as error:
        return _Model({**metadata, "features": []}), [f"{Path(location_parts(init.url)[-1]).name}: {error}"]
    return _Model({**metadata, "features": list(weights.features)}, weights), []


# --- linear weights in place of pickles ---


def _stand_in(init: InitUrl, named: _Model, reasons: list[str]) -> _Model:
    """Return linear weights that replace the model `named`: those of SGDRegressorTrainer for the same node type.

    Raises `StoreError` if there are no such weights. `reasons` tell why the model `named` itself has no linear weights.
    """
    match = _MODEL_NAME.fullmatch(str(named.metadata["model_name"]))
    name = f"{LINEAR_TRAINER}_{match[1] if match else 0}"
    archive_name, archive = _fetch_beside(init, f"{name}.zip")
    metadata: dict[str, Any] = {}
    inside: bytes | KeplerError = archive if isinstance(archive, KeplerError) else StoreError("no weights in it")
    if isinstance(archive, bytes):
        try:
            files = ModelArchive(archive, archive_name)
            metadata = decode_object(files[METADATA_FILE])
            inside = files.get(WEIGHT_FILE, inside)
        except KeplerError as error:
            inside = error
    candidates = iter([_fetch_beside(init, f"{name}.json"), (archive_name, inside)])
    for weights in _weights(candidates, reasons):
        return _Model({"features": list(weights.features), **metadata, "model_name": name}, weights)
    pickles = "only pickles, which Kepler Core never loads, and " if named.is_pickled else ""
    found = "; ".join(dict.fromkeys(reasons))
    raise StoreError(f"{init.where}: {pickles}no linear weights in its folder ({found}); {WHAT_TO_DO}")


def _weights(files: Iterator[tuple[str, bytes | KeplerError]], reasons: list[str]) -> Iterator[LinearWeights]:
    """Yield the linear weights in files. For each file without linear weights, add the reason to `reasons`."""
    for name, content in files:
        try:
            if isinstance(content, KeplerError):
                raise content
            yield read_linear_weights(content)
        except KeplerError as error:
            reasons.append(f"{name}: {error.message}")


def _fetch_beside(init: InitUrl, name: str) -> tuple[str, bytes | KeplerError]:
    """Read the file `name` in the folder of the URL. Return its name, and its content or the error that occurred."""
    url = beside(init.url, name)
    limit = MAX_ARCHIVE_BYTES if name.endswith(".zip") else MAX_DOCUMENT_BYTES
    try:
        return name, fetch(url, limit)
    except KeplerError as error:
        return name, StoreError(error.message.removeprefix(f"{shown_location(url)}: "))


def _node_type_index(init: InitUrl) -> bytes | None:
    """Return the content of the file with the pipeline's node types; None if it cannot be read."""
    if init.place() is None:
        return None
    url = beside(init.url, NODE_TYPE_INDEX, up=3)
    try:
        content = fetch(url, MAX_DOCUMENT_BYTES)
        decode_node_types(content, shown_location(url))
    except KeplerError as error:
        log.info("the machine of the model is not known: %s", error)
        return None
    return content


# --- the catalogue of the models ---


def _url_models(init: InitUrl, source: str, models: list[_Model], node_type_index: bytes | None) -> UrlModels:
    place = init.place()
    files: dict[str, bytes] = {} if node_type_index is None else {NODE_TYPE_INDEX: node_type_index}
    for model in models:
        output_type = model.metadata.get("output_type") or (place[1] if place else init.output_type)
        group = model.metadata.get("feature_group") or (place[2] if place else "unknown")
        energy_source, name = model.metadata.get("source") or source, str(model.metadata.get("model_name", ""))
        for text in (energy_source, output_type, group, name):
            if not (isinstance(text, str) and is_name(text)):
                raise StoreError(f"{init.where}: metadata.json: {quoted(text, 60)} is not a name")
        path = f"{energy_source}/{output_type}/{group}/{name}"
        if model.archive is not None:
            files |= {f"{path}/{file}": model.archive[file] for file in model.archive}
            files[f"{path}.zip"] = model.archive.content
            continue
        files |= {f"{path}.zip": b"", f"{path}/{METADATA_FILE}": msgspec.json.encode(dict(model.metadata))}
        if model.weights is not None:
            files[f"{path}.json"] = b"{%s}" % model.weights.encoded
    snapshot = Snapshot(_PIPELINE, None, init.where, None, frozenset(files), lambda name, _: files[name])
    stored, node_types = read_pipeline_models(snapshot)
    named = str(models[0].metadata.get("model_name", ""))
    if len(stored) < len(models):
        output_type = str(models[0].metadata.get("output_type", ""))
        raise StoreError(
            f"{init.where}: metadata.json has no valid model name and output type ({named[:60]!r}, "
            f"{output_type[:20]!r})"
        )
    catalogue = Catalogue(stored, {_PIPELINE: node_types}, {}, compare=SpecTable, location=init.where)
    return UrlModels(catalogue, named)


def _name_in_url(init: InitUrl) -> str:
    """Return the model name in the URL. If the URL has none, return `SGDRegressorTrainer_0`."""
    stem = Path(location_parts(init.url)[-1]).stem
    return stem if _MODEL_NAME.fullmatch(stem) else f"{LINEAR_TRAINER}_0"
