"""Model providers that need a network: a model server, and archives at configured URLs."""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import KeplerError, NoModelError, StoreError
from kepler_core.messages import printable
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.plugins import registry
from kepler_core.selection import Catalogue, ModelRequest
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.selection.sources import matching_sources
from kepler_core.store.download import download
from kepler_core.store.manifest import sha256
from kepler_core.store.safe_zip import read_zip
from kepler_core.store.snapshot import Snapshot
from kepler_core.vocabulary import PLATFORM_COMPONENTS, OutputType
from kepler_profiler.similarity import SpecTable
from kepler_servers.estimator.model_providers import ModelOffer, UnreachableError, offer_of

SERVER_TIMEOUT_SECONDS = 10.0
"""Time limit for a model server's complete answer."""
MAX_ARCHIVE_BYTES = 64 * 2**20

_PIECE_BYTES = 65536
_NODE_LEVELS, _PROCESS_LEVELS = ("NODE",), ("CONTAINER", "PROCESS")


class ModelServerProvider:
    """Gets models from a model server (`kepler-model serve model-server`)."""

    def __init__(self, url: str) -> None:
        self.name = f"model server {url}"
        self._url = url

    def offer(self, request: ModelRequest) -> ModelOffer:
        archive, headers = self._post(request)
        try:
            files = _flat(read_zip(archive, self.name))
            archive_spec = _machine_spec_of(files)
        except KeplerError as error:
            raise UnreachableError(f"{self.name}: its answer is not a model: {error}") from None
        try:
            selection = decode_object((headers.get("X-Kepler-Selection") or "{}").encode())
        except DocumentError:
            selection = {}
        node_type = selection.get("node_type")
        machine_spec = node_type.get("machine_spec") if isinstance(node_type, dict) else None
        name = headers.get("X-Kepler-Model") or selection.get("model") or "a model"
        return ModelOffer(
            self.name,
            str(name),
            sha256(archive),
            selection,
            machine_spec if isinstance(machine_spec, dict) else archive_spec,
            files,
        )

    def changed(self) -> bool:
        return False

    def _post(self, request: ModelRequest) -> tuple[bytes, Mapping[str, str]]:
        """Send a model request. Return the body and the headers of the answer."""
        body = {
            "metrics": list(request.metrics or ()),
            "output_type": request.output_type,
            "source": request.source,
            "trainer_name": request.trainer or "",
            "filter": request.filter.text,
            "machine_spec": dict(request.machine_spec),
            "weight": False,
            "portable": True,
        }
        http_request = urllib.request.Request(  # noqa: S310 - the command checks the scheme
            self._url, msgspec.json.encode(body), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(http_request, timeout=SERVER_TIMEOUT_SECONDS) as answer:  # noqa: S310
                content = _read(answer, time.monotonic() + SERVER_TIMEOUT_SECONDS)
                headers = answer.headers
        except urllib.error.HTTPError as error:
            with error:
                message = _error_message(error)
            if error.code == HTTPStatus.NOT_FOUND:
                raise NoModelError(f"{self.name}: {message}", {}) from None
            raise UnreachableError(f"{self.name}: HTTP {error.code}: {message}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(f"{self.name}: {printable(str(reason), 200)}") from None
        return content, headers


class UrlProvider:
    """Gets models from archives at configured URLs: one per level (node, process) and kind (total, components)."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        """`urls` maps configuration keys, e.g. NODE_TOTAL_INIT_URL, to URLs or paths."""
        self.name = "configured URLs"
        self._urls = dict(urls)
        self._catalogues: dict[tuple[str, str], Catalogue] = {}
        """By URL and source. The metadata of old archives does not name a source; such a model counts as
        one of the requested source."""

    def offer(self, request: ModelRequest) -> ModelOffer:
        sources = matching_sources(request.source, ())
        keys = init_url_keys(request.output_type, total=_measure_platform(sources))
        url = next((self._urls[key] for key in keys if key in self._urls), None)
        if url is None:
            raise NoModelError(f"none of {', '.join(keys)} is set", {})
        source = min(sources)
        if (url, source) not in self._catalogues:
            try:
                self._catalogues[url, source] = _catalogue_of_archive(_fetch(url), url, source)
            except KeplerError as error:
                raise UnreachableError(f"{url}: {error}") from error
        return offer_of(self._catalogues[url, source].select(request), f"URL {url}")

    def changed(self) -> bool:
        return False


def init_url_keys(output_type: OutputType, *, total: bool) -> list[str]:
    """Return the configuration keys that may name the model of an output type.

    `total`: for energy sources that measure the whole platform; else for those that measure components.
    """
    levels = _NODE_LEVELS if output_type == "AbsPower" else _PROCESS_LEVELS
    return [f"{level}_{'TOTAL' if total else 'COMPONENTS'}_INIT_URL" for level in levels]


def _measure_platform(sources: Collection[str]) -> bool:
    """Return whether energy sources measure the whole platform. The names of one request agree on that."""
    for name in sources:
        return registry.energy_sources.preferred(name).components == PLATFORM_COMPONENTS
    return False


def _catalogue_of_archive(content: bytes, url: str, requested_source: str) -> Catalogue:
    """Return a catalogue of the one model in a zip file, so that requests can be matched with its metadata."""
    files = _flat(read_zip(content, url))
    metadata = decode_object(files[METADATA_FILE])
    name, output_type = str(metadata.get("model_name", "")), str(metadata.get("output_type", ""))
    source = str(metadata.get("source") or requested_source)
    path = f"{source}/{output_type}/{metadata.get('feature_group') or 'unknown'}/{name}"
    files_by_path = {f"{path}/{file}": data for file, data in files.items()}
    files_by_path[f"{path}.zip"] = content
    snapshot = Snapshot("configured", None, url, None, frozenset(files_by_path), files_by_path.__getitem__)
    models, node_types = read_pipeline_models(snapshot)
    if not models:
        raise StoreError(f"{url}: its metadata.json does not name a model ({name[:60]!r}, {output_type[:20]!r})")
    return Catalogue(models, {"configured": node_types}, {}, compare=SpecTable, location=url)


def _flat(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return a model's files by base name: archives may have them at the top or in a folder."""
    by_name = {path.rpartition("/")[2]: content for path, content in files.items()}
    if METADATA_FILE not in by_name:
        raise StoreError(f"no {METADATA_FILE} in the archive")
    return by_name


def _machine_spec_of(files: Mapping[str, bytes]) -> Mapping[str, Any]:
    spec = decode_object(files[METADATA_FILE]).get("machine_spec")
    return spec if isinstance(spec, dict) else {}


def _error_message(answer: urllib.error.HTTPError) -> str:
    """Return the `msg` of a model server's error answer."""
    try:
        message = decode_object(answer.read(_PIECE_BYTES)).get("msg", "")
    except (OSError, http.client.HTTPException, DocumentError):
        message = ""
    return printable(str(message), 300).strip() or "no reason given"


def _read(answer: Any, deadline: float) -> bytes:
    """Read a body to its end. Raises `OSError` if it is too large or not complete at the deadline.

    The timeout of `urlopen` limits each read, not their sum: a server that sends a byte a second would
    never exceed it.
    """
    content = bytearray()
    while piece := answer.read1(_PIECE_BYTES):
        content += piece
        if len(content) > MAX_ARCHIVE_BYTES:
            raise OSError(f"more than {MAX_ARCHIVE_BYTES} bytes")
        if time.monotonic() > deadline:
            raise OSError(f"not complete within {SERVER_TIMEOUT_SECONDS:g} s")
    return bytes(content)


def _fetch(url: str) -> bytes:
    """Return the content of a URL or a local path. Raises `StoreError`."""
    if url.startswith(("http://", "https://")):
        return download(url)
    path = Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)
    try:
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise StoreError(f"{url}: more than {MAX_ARCHIVE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{url}: {error.strerror or error}") from error
