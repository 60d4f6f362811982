"""Models from a model server, and from configured URLs."""

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

from kepler_core.errors import KeplerError, NoModelError, StoreError
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
from kepler_servers.estimator.origins import Offer, UnreachableError, offer_of

ASK_SECONDS = 10.0
MAX_ARCHIVE_BYTES = 64 * 2**20

_NODE, _PROCESS = ("NODE",), ("CONTAINER", "PROCESS")


class ModelServerOrigin:
    """A model server (`kepler-model serve model-server`)."""

    def __init__(self, url: str) -> None:
        self.name = f"model server {url}"
        self._url = url

    def offer(self, request: ModelRequest) -> Offer:
        answer, headers = self._ask(request)
        try:
            files = _flat(read_zip(answer, self.name))
            spec = _spec_in(files)
        except (KeplerError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UnreachableError(f"{self.name}: what it sent is no model: {error}") from None
        try:
            selection = msgspec.json.decode(headers.get("X-Kepler-Selection") or "{}", type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError):
            selection = {}
        node_type = selection.get("node_type")
        chosen = node_type.get("machine_spec") if isinstance(node_type, dict) else None
        name = headers.get("X-Kepler-Model") or selection.get("model") or "a model"
        return Offer(
            self.name, str(name), sha256(answer), selection, chosen if isinstance(chosen, dict) else spec, files
        )

    def changed(self) -> bool:
        return False

    def _ask(self, request: ModelRequest) -> tuple[bytes, Mapping[str, str]]:
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
        http_request = urllib.request.Request(  # noqa: S310 - its scheme was checked at the start
            self._url, msgspec.json.encode(body), {"Content-Type": "application/json"}, method="POST"
        )
        try:
            with urllib.request.urlopen(http_request, timeout=ASK_SECONDS) as answer:  # noqa: S310
                content = _read(answer, time.monotonic() + ASK_SECONDS)
                headers = answer.headers
        except urllib.error.HTTPError as error:
            with error:
                said = _message(error)
            if error.code == HTTPStatus.NOT_FOUND:
                raise NoModelError(f"{self.name}: {said}", {}) from None
            raise UnreachableError(f"{self.name}: HTTP {error.code}: {said}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(f"{self.name}: {' '.join(str(reason).split())[:200]}") from None
        return content, headers


class UrlOrigin:
    """Model archives at configured URLs, one per level (node, process) and kind (total, components)."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        """`urls` by configuration key, e.g. NODE_TOTAL_INIT_URL."""
        self.name = "configured URLs"
        self._urls = dict(urls)
        self._kept: dict[tuple[str, str], Catalogue] = {}
        """By URL and source: an archive that does not say what its model was trained from is taken for one of
        the source that is asked for."""

    def offer(self, request: ModelRequest) -> Offer:
        sources = matching_sources(request.source, ())
        total = _are_platform(sources)
        keys = init_url_keys(request.output_type, total=total)
        url = next((self._urls[key] for key in keys if key in self._urls), None)
        if url is None:
            raise NoModelError(f"none of {', '.join(keys)} is set", {})
        source = min(sources)
        if (url, source) not in self._kept:
            try:
                self._kept[url, source] = _catalogue_of_one(_fetch(url), url, source)
            except (KeplerError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise UnreachableError(f"{url}: {error}") from error
        return offer_of(self._kept[url, source].select(request), f"URL {url}")

    def changed(self) -> bool:
        return False


def init_url_keys(output_type: OutputType, *, total: bool) -> list[str]:
    """The configuration keys for models of a level and kind."""
    levels = _NODE if output_type == "AbsPower" else _PROCESS
    return [f"{level}_{'TOTAL' if total else 'COMPONENTS'}_INIT_URL" for level in levels]


def _are_platform(sources: Collection[str]) -> bool:
    for name in sources:
        return registry.energy_sources.preferred(name).components == PLATFORM_COMPONENTS
    return False


def _catalogue_of_one(content: bytes, url: str, asked: str) -> Catalogue:
    files = _flat(read_zip(content, url))
    metadata = msgspec.json.decode(files[METADATA_FILE], type=dict[str, Any])
    name, output_type = str(metadata.get("model_name", "")), str(metadata.get("output_type", ""))
    source = str(metadata.get("source") or asked)
    path = f"{source}/{output_type}/{metadata.get('feature_group') or 'unknown'}/{name}"
    named = {f"{path}/{file}": data for file, data in files.items()}
    named[f"{path}.zip"] = content
    snapshot = Snapshot("configured", None, url, None, frozenset(named), named.__getitem__)
    models, types = read_pipeline_models(snapshot)
    if not models:
        raise StoreError(f"{url}: its metadata.json does not name a model ({name[:60]!r}, {output_type[:20]!r})")
    return Catalogue(models, {"configured": types}, {}, compare=SpecTable, location=url)


def _flat(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """A model's files by name, whether or not they are in a folder."""
    found = {name.rpartition("/")[2]: content for name, content in files.items()}
    if METADATA_FILE not in found:
        raise StoreError(f"no {METADATA_FILE} in the archive")
    return found


def _spec_in(files: Mapping[str, bytes]) -> Mapping[str, Any]:
    spec = msgspec.json.decode(files[METADATA_FILE], type=dict[str, Any]).get("machine_spec")
    return spec if isinstance(spec, dict) else {}


def _message(answer: urllib.error.HTTPError) -> str:
    try:
        said = msgspec.json.decode(answer.read(65536), type=dict[str, Any]).get("msg", "")
    except (msgspec.DecodeError, RecursionError, OSError, http.client.HTTPException):
        said = ""
    return " ".join(str(said).split())[:300] or "no reason given"


def _read(answer: Any, deadline: float) -> bytes:
    """A body, whole, however slowly it comes, but not beyond the deadline."""
    content = bytearray()
    while piece := answer.read1(65536):
        content += piece
        if len(content) > MAX_ARCHIVE_BYTES:
            raise OSError(f"more than {MAX_ARCHIVE_BYTES} bytes")
        if time.monotonic() > deadline:
            raise OSError(f"not complete within {ASK_SECONDS:g} s")
    return bytes(content)


def _fetch(url: str) -> bytes:
    """An archive from a URL or a path; `StoreError`."""
    if url.startswith(("http://", "https://")):
        return download(url)
    path = Path(unquote(urlsplit(url).path) if url.startswith("file://") else url)
    try:
        if path.stat().st_size > MAX_ARCHIVE_BYTES:
            raise StoreError(f"{url}: more than {MAX_ARCHIVE_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{url}: {error.strerror or error}") from error
