"""The endpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import bottle
import msgspec

from kepler_core import __version__
from kepler_core.errors import KeplerError, NoModelError, RequestError, StoreError
from kepler_core.hooks import events
from kepler_core.selection import Catalogue, ModelRequest, Selection
from kepler_core.selection.filters import Filter, parse_filter
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import OUTPUT_TYPES
from kepler_servers.live import LiveCatalogue
from kepler_servers.model_server.answers import (
    MODEL_HEADER,
    Answer,
    archive_answer,
    reasons_answer,
    weights_answer,
    weights_members,
)
from kepler_servers.model_server.metrics import CONTENT_TYPE, ServerMetrics
from kepler_servers.model_server.openapi import document
from kepler_servers.rsgi import Reply
from kepler_servers.wire import checked_output_type, integers, read_model_request

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024
MAX_PAGE = 1000
MODEL_ENDPOINT = "model"
_MODEL_ROUTE = "/models/<pipeline>/<source>/<output_type>/<feature_group>/<name>"
_DAMAGED_TRIES = 5
_CONDITIONS = ("energy-source", "output-type", "feature-group", "node-type", "filter")

Handler = Callable[..., Answer]


class ModelServer:
    """The bottle application (`app`) over a live catalogue."""

    def __init__(self, live: LiveCatalogue, metrics: ServerMetrics, *, model_path: str) -> None:
        self.live = live
        self.metrics = metrics
        self.model_path = model_path
        self.app = bottle.Bottle(catchall=False)
        self._recent = _RecentAnswers()
        self._openapi = msgspec.json.encode(document(model_path))
        routes: list[tuple[str, str, str, Handler]] = [
            ("POST", model_path, MODEL_ENDPOINT, self.model),
            ("GET", "/best-models", "best-models", self.best_models),
            ("GET", "/models", "models", self.models),
            ("GET", _MODEL_ROUTE, "stored-model", self.stored_model),
            ("GET", "/node-types", "node-types", self.node_types),
            ("GET", "/metrics", "metrics", self.exposition),
            ("GET", "/healthz", "healthz", self.health),
            ("GET", "/readyz", "readyz", self.ready),
            ("GET", "/openapi.json", "openapi", self.openapi),
        ]
        for method, path, name, handler in routes:
            self.app.route(path, method, self._counted(name, handler))
        for status in (404, 405):
            self.app.error_handler[status] = self._json_error

    def _counted(self, endpoint: str, handler: Handler) -> Callable[..., bytes]:
        def handle(**arguments: str) -> bytes:
            started = time.perf_counter()
            status, answer = self._guarded(endpoint, handler, arguments)
            response = bottle.response
            response.status = status
            for name, value in answer.header_list():
                response.set_header(name, value)
            self.metrics.observe(endpoint, status, time.perf_counter() - started)
            return answer.body

        return handle

    def _guarded(self, endpoint: str, handler: Handler, arguments: dict[str, str]) -> tuple[int, Answer]:
        try:
            answer = handler(**arguments)
        except RequestError as error:
            return 400, _json({"msg": str(error), "key": error.key})
        except NoModelError as error:
            if not self.live.current.models and self.live.store_problem is not None:
                return 503, _json({"msg": f"the store cannot be read: {self.live.store_problem}"})
            return 404, _json({"msg": str(error), "selection": error.explanation})
        except _NotReadyError as error:
            return 503, _json(error.answer)
        except _NotFoundError as error:
            return 404, _json({"msg": str(error)})
        except KeplerError as error:
            # nothing that the client sent: the store is damaged or gone
            log.error("%s failed: %s", endpoint, error)
            return 503, _json({"msg": str(error)})
        except Exception:
            log.exception("%s failed; this is a defect of the model server", endpoint)
            return 500, _json({"msg": "a defect of the model server; its log says more"})
        return 200, answer

    def _json_error(self, error: bottle.HTTPError) -> bytes:
        """bottle's own errors: no such path, no such method."""
        request = bottle.request
        bottle.response.content_type = "application/json"
        self.metrics.observe("other", error.status_code, 0.0)
        if error.status_code == 405:
            allowed = error.headers.get("Allow")
            text = f"{request.method[:20]} is not a method of {request.path[:200]}; allowed: {allowed}"
        else:
            text = f"no such path {request.path[:200]!r}; GET /openapi.json lists them"
        return msgspec.json.encode({"msg": text})

    # --- POST /model ---

    def model(self) -> Answer:
        body = bottle.request.environ["wsgi.input"].read()
        explain = _flag("explain")
        request = read_model_request(body)
        for _ in range(_DAMAGED_TRIES):
            catalogue = self.live.current
            selection = catalogue.select(request)
            if explain:
                return reasons_answer(selection)
            try:
                answer = weights_answer(selection) if request.weights else archive_answer(selection)
            except StoreError as error:
                self.live.drop(selection.model, str(error))
                continue
            self._recent.keep(catalogue, body, request, selection, answer)
            self._selected(request, selection)
            return answer
        raise StoreError("the models that fit are damaged, see /healthz")

    def remembered(self, method: str, path: str, query: str, body: bytes) -> Reply | None:
        """The answer to a request for a model with the very same bytes as one before, which nodes of one
        kind send, for as long as the catalogue stays. It is counted like any other."""
        started = time.perf_counter()
        if method != "POST" or query or path != self.model_path:
            return None
        kept = self._recent.get(self.live.current, body)
        if kept is None:
            return None
        request, selection, reply = kept
        self._selected(request, selection)
        self.metrics.observe(MODEL_ENDPOINT, reply.status, time.perf_counter() - started)
        return reply

    def _selected(self, request: ModelRequest, selection: Selection) -> None:
        self.metrics.selected(request.output_type, selection.node_type.match)
        if events().manager.hook.kepler_model_selected.get_hookimpls():
            events().send("kepler_model_selected", model=selection.model.metadata)

    # --- GET ---

    def best_models(self) -> Answer:
        query = _query(*_CONDITIONS)
        best: dict[str, dict[str, str]] = {output_type: {} for output_type in OUTPUT_TYPES}
        for model in self._find(query):
            best[model.output_type].setdefault(model.feature_group, model.name)
        if (wanted := query["output-type"]) is not None:
            best = {checked_output_type(wanted): best[wanted]}
        return _json(best)

    def models(self) -> Answer:
        query = _query("pipeline", "trainer", *_CONDITIONS, "limit", "offset")
        found = self._find(query)
        limit = _whole(query, "limit", 1, MAX_PAGE) or 100
        offset = _whole(query, "offset", 0, 10**9) or 0
        return _json({"total": len(found), "models": [_described(m) for m in found[offset : offset + limit]]})

    def _find(self, query: dict[str, str | None]) -> list[StoredModel]:
        if (output_type := query["output-type"]) is not None:
            checked_output_type(output_type)
        return self.live.current.find(
            pipeline=query.get("pipeline"),
            source=query["energy-source"],
            output_type=output_type,
            feature_group=query["feature-group"],
            trainer=query.get("trainer"),
            node_type=_whole(query, "node-type", 0, 2**31),
            filter=_filter(query["filter"]),
        )

    def stored_model(self, pipeline: str, source: str, output_type: str, feature_group: str, name: str) -> Answer:
        """Metadata, or with a suffix the weights (.json) or the archive (.zip)."""
        stem, suffix = name, ""
        for ending in (".json", ".zip"):
            if name.endswith(ending):
                stem, suffix = name.removesuffix(ending), ending
        path = f"{source}/{output_type}/{feature_group}/{stem}"
        model = self.live.current.by_path(pipeline, path)
        if model is None:
            raise _NotFoundError(f"no model {path!r} in pipeline {pipeline!r}; GET /models lists them")
        headers = {MODEL_HEADER: f"{model.pipeline}/{model.path}"}
        if suffix == ".zip":
            return Answer(model.archive(), "application/zip", headers)
        if suffix == ".json":
            if model.weights is None:
                raise _NotFoundError(f"{path!r} has no weights that a client may evaluate: {model.no_weights}")
            return Answer(b"{%s}" % weights_members(model), "application/json", headers)
        return Answer(model.encoded, "application/json", headers)

    def node_types(self) -> Answer:
        catalogue = self.live.current
        return _json(
            {
                pipeline: {
                    str(number): {"machine_spec": integers(found.spec), "members": found.members}
                    for number, found in sorted(types.items())
                }
                for pipeline, types in sorted(catalogue.node_types.items())
            }
        )

    def exposition(self) -> Answer:
        return Answer(self.metrics.exposition(), CONTENT_TYPE)

    def health(self) -> Answer:
        return _json(self._health())

    def ready(self) -> Answer:
        found = self._health()
        if not self.live.looked_at:
            raise _NotReadyError(found)
        return _json(found)

    def openapi(self) -> Answer:
        return Answer(self._openapi, "application/json")

    def _health(self) -> dict[str, Any]:
        live = self.live
        problems = bool(live.broken or live.store_problem)
        pipelines = {
            name: {"version": self.live.version_of(name), "models": count}
            for name, count in live.current.models_of.items()
        }
        return {
            "status": "degraded" if problems else "ok",
            "version": __version__,
            "store": live.store.location,
            "store_problem": live.store_problem,
            "models": len(live.current.models),
            "pipelines": pipelines,
            "broken": live.broken,
        }


class _RecentAnswers:
    """Answers to requests for a model, by their bytes, of one catalogue."""

    MOST = 512
    LARGEST = 16 * 1024

    def __init__(self) -> None:
        self._catalogue: Catalogue | None = None
        self._kept: dict[bytes, tuple[ModelRequest, Selection, Reply]] = {}

    def get(self, catalogue: Catalogue, body: bytes) -> tuple[ModelRequest, Selection, Reply] | None:
        return self._kept.get(body) if catalogue is self._catalogue else None

    def keep(
        self, catalogue: Catalogue, body: bytes, request: ModelRequest, selection: Selection, answer: Answer
    ) -> None:
        if catalogue is not self._catalogue or len(self._kept) >= self.MOST:
            self._catalogue, self._kept = catalogue, {}
        if len(body) + len(answer.body) <= self.LARGEST:
            headers = [*answer.header_list(), ("Content-Length", str(len(answer.body)))]
            self._kept[body] = request, selection, Reply(200, headers, answer.body)


class _NotFoundError(Exception):
    """There is nothing under that path."""


class _NotReadyError(Exception):
    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__()
        self.answer = answer


def _json(content: Any) -> Answer:
    return Answer(msgspec.json.encode(content), "application/json")


def _described(model: StoredModel) -> dict[str, Any]:
    metadata = model.metadata
    return {
        "pipeline": model.pipeline,
        "version": model.snapshot.version,
        "path": model.path,
        "model_name": model.name,
        "source": model.source,
        "output_type": model.output_type,
        "feature_group": model.feature_group,
        "trainer": model.trainer,
        "node_type": model.node_type,
        "features": list(model.features),
        "portable": model.portable,
        "weights": model.weights is not None,
        "no_weights": None if model.weights is not None else model.no_weights,
        "errors": {key: value for key, value in metadata.items() if key.endswith(("mae", "mape"))},
    }


def _query(*known: str) -> dict[str, str | None]:
    """The query's parameters; `RequestError` for one that is not known, not text, or there twice."""
    found = bottle.request.query
    for key in found:
        if key not in known:
            raise RequestError(key[:60], f"unknown parameter; known: {', '.join(known)}")
        if len(found.getall(key)) > 1:
            raise RequestError(key, "given twice")
    return {key: found.get(key) or None for key in known}


def _flag(name: str) -> bool:
    value = _query(name)[name]
    if value not in (None, "0", "1", "false", "true"):
        raise RequestError(name, f"{value[:60]!r} is not 1 or 0")
    return value in ("1", "true")


def _whole(query: dict[str, str | None], key: str, lowest: int, highest: int) -> int | None:
    value = query[key]
    if value is None:
        return None
    if not (value.isascii() and value.isdecimal() and len(value) < 20 and lowest <= int(value) <= highest):
        raise RequestError(key, f"{value[:60]!r} is not a whole number between {lowest} and {highest}")
    return int(value)


def _filter(text: str | None) -> Filter | None:
    return None if text is None else parse_filter(text)
