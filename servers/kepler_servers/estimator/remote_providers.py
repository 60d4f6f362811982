"""Model providers that need a network: a model server, and archives at configured URLs."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Collection, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.deadlines import Deadline, DeadlineError, TooLargeError
from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import KeplerError, NoModelError, StoreError
from kepler_core.messages import printable
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.plugins import registry
from kepler_core.selection import Catalogue, ModelRequest
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.selection.sources import matching_sources
from kepler_core.store.download import download
from kepler_core.store.http_exchange import exchange
from kepler_core.store.manifest import sha256
from kepler_core.store.model_archive import ModelArchive
from kepler_core.store.snapshot import Snapshot
from kepler_core.urls import file_path, is_file_url, secrets_of, shown_location, shown_url, without_secrets
from kepler_core.vocabulary import PLATFORM_COMPONENTS, OutputType
from kepler_profiler.similarity import SpecTable
from kepler_servers.estimator.model_providers import ModelOffer, UnreachableError, offer_of

SERVER_TIMEOUT_SECONDS = 10.0
"""Time limit for receiving the complete answer of a model server."""
URL_TIMEOUT_SECONDS = 120.0
"""Time limit for the download of the archive at a configured URL."""
MAX_ARCHIVE_BYTES = 64 * 2**20
MAX_NAME_CHARACTERS = 300

_NODE_LEVELS, _PROCESS_LEVELS = ("NODE",), ("CONTAINER", "PROCESS")


class ModelServerProvider:
    """Provider of models from a model server (`kepler-model serve model-server`)."""

    def __init__(self, url: str) -> None:
        self.name = f"model server {shown_url(url)}"
        self._url = url
        self._secrets = secrets_of(url)

    def offer(self, request: ModelRequest) -> ModelOffer:
        archive, headers = self._post(request)
        try:
            files = ModelArchive(archive, self.name)
            archive_spec = _machine_spec_of(files)
        except KeplerError as error:
            raise UnreachableError(f"{self.name}: the answer is not a model: {error}") from None
        try:
            selection = decode_object((headers.get("X-Kepler-Selection") or "{}").encode())
        except DocumentError:
            selection = {}
        node_type = selection.get("node_type")
        machine_spec = node_type.get("machine_spec") if isinstance(node_type, dict) else None
        name = printable(str(headers.get("X-Kepler-Model") or selection.get("model") or "a model"), MAX_NAME_CHARACTERS)
        return ModelOffer(
            self.name,
            name,
            sha256(archive),
            selection,
            machine_spec if isinstance(machine_spec, dict) else archive_spec,
            files,
        )

    def changed(self) -> bool:
        return False

    def _post(self, request: ModelRequest) -> tuple[bytes, Mapping[str, str]]:
        """Send a model request to the model server. Return the body and the headers of its answer."""
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
        deadline = Deadline(SERVER_TIMEOUT_SECONDS)
        try:
            answer = exchange(
                http_request, deadline, max_bytes=MAX_ARCHIVE_BYTES, socket_timeout=SERVER_TIMEOUT_SECONDS
            )
        except DeadlineError as error:
            raise UnreachableError(f"{self.name}: the answer is {error.message}") from None
        except (OSError, http.client.HTTPException, ValueError, TooLargeError) as error:
            reason = getattr(error, "reason", None) or error
            text = without_secrets(str(reason), self._secrets)
            raise UnreachableError(f"{self.name}: {printable(text, 200)}") from None
        if answer.status >= HTTPStatus.MULTIPLE_CHOICES:
            message = without_secrets(_error_message(answer.body), self._secrets)
            if answer.status == HTTPStatus.NOT_FOUND:
                raise NoModelError(f"{self.name}: {message}", {})
            raise UnreachableError(f"{self.name}: HTTP {answer.status}: {message}")
        return answer.body, answer.headers


class UrlProvider:
    """Provider of models from archives at configured URLs.

    Each configured URL is for one level (node, container or process) and one kind of power (of the whole
    platform, or of components). The archive at the URL contains one model.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        """`urls` maps configuration keys, e.g. NODE_TOTAL_INIT_URL, to the URLs or local paths of archives."""
        self.name = "configured URLs"
        self._urls = dict(urls)
        self._catalogues: dict[tuple[str, str], Catalogue] = {}
        """(URL, energy source) -> catalogue that contains only the model in the URL's archive.

        In old archives, the metadata names no energy source. Such a model is used for the requested energy source.
        """

    def offer(self, request: ModelRequest) -> ModelOffer:
        sources = matching_sources(request.source, ())
        keys = init_url_keys(request.output_type, total=_measure_platform(sources))
        url = next((self._urls[key] for key in keys if key in self._urls), None)
        if url is None:
            raise NoModelError(f"none of {', '.join(keys)} is set", {})
        source = min(sources)
        if (url, source) not in self._catalogues:
            try:
                self._catalogues[url, source] = _catalogue_of_archive(_fetch(url), shown_location(url), source)
            except KeplerError as error:
                raise UnreachableError(f"{shown_location(url)}: {error}") from error
        return offer_of(self._catalogues[url, source].select(request), f"URL {shown_location(url)}")

    def changed(self) -> bool:
        return False


def init_url_keys(output_type: OutputType, *, total: bool) -> list[str]:
    """Return the configuration keys whose URLs may lead to a model of the output type, the preferred key first.

    `total` is true for energy sources that measure the whole platform, and false for energy sources that
    measure components.
    """
    levels = _NODE_LEVELS if output_type == "AbsPower" else _PROCESS_LEVELS
    return [f"{level}_{'TOTAL' if total else 'COMPONENTS'}_INIT_URL" for level in levels]


def _measure_platform(sources: Collection[str]) -> bool:
    """Return whether the energy sources of a request measure the whole platform.

    All energy sources that match one request agree in this, so only one of them is looked up.
    """
    for name in sources:
        return registry.energy_sources.preferred(name).components == PLATFORM_COMPONENTS
    return False


def _catalogue_of_archive(content: bytes, where: str, requested_source: str) -> Catalogue:
    """Return a catalogue that contains only the model in a zip file, described by the model's metadata.

    `requested_source` is the model's energy source if the metadata names none. `where` names the zip file in
    errors.
    """
    files = ModelArchive(content, where).without_other_files()
    metadata = decode_object(files[METADATA_FILE])
    name, output_type = str(metadata.get("model_name", "")), str(metadata.get("output_type", ""))
    source = str(metadata.get("source") or requested_source)
    path = f"{source}/{output_type}/{metadata.get('feature_group') or 'unknown'}/{name}"
    names = frozenset((f"{path}.zip", *(f"{path}/{file}" for file in files)))

    def read(name: str, max_bytes: int) -> bytes:
        return files.content if name == f"{path}.zip" else files[name.removeprefix(f"{path}/")]

    snapshot = Snapshot("configured", None, where, None, names, read)
    models, node_types = read_pipeline_models(snapshot)
    if not models:
        raise StoreError(
            f"{where}: metadata.json has no valid model name and output type ({name[:60]!r}, {output_type[:20]!r})"
        )
    return Catalogue(models, {"configured": node_types}, {}, compare=SpecTable, location=where)


def _machine_spec_of(files: Mapping[str, bytes]) -> Mapping[str, Any]:
    spec = decode_object(files[METADATA_FILE]).get("machine_spec")
    return spec if isinstance(spec, dict) else {}


def _error_message(body: bytes) -> str:
    """Return the error message in a model server's answer, which is the value of the key `msg`."""
    try:
        message = decode_object(body).get("msg", "")
    except DocumentError:
        message = ""
    return printable(str(message), 300).strip() or "no reason given"


def _fetch(url: str) -> bytes:
    """Return the content of the file at a URL or local path. Raises `StoreError` if it cannot be read."""
    if url.lower().startswith(("http://", "https://")):
        return download(url, seconds=URL_TIMEOUT_SECONDS, max_bytes=MAX_ARCHIVE_BYTES)
    path = Path(file_path(url) if is_file_url(url) else url)
    try:
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise StoreError(f"{shown_location(url)}: more than {MAX_ARCHIVE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{shown_location(url)}: {error.strerror or error}") from error
