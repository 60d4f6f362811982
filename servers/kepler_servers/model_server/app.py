"""The endpoints."""

from __future__ import annotations

import time
from typing import Any

import bottle
import msgspec

from kepler_core import __version__
from kepler_core.errors import KeplerError, NoModelError, StoreError
from kepler_core.plugins.hooks import events
from kepler_core.selection import Catalogue, ModelRequest, Selection
from kepler_core.selection.filters import Filter, parse_filter
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import OUTPUT_TYPES
from kepler_servers.http.adapter import Reply
from kepler_servers.http.app import Answer, AnswerError, Endpoints, NotFoundError, flag, json_answer, query, whole
from kepler_servers.http.metrics import CONTENT_TYPE
from kepler_servers.live_catalogue import LiveCatalogue
from kepler_servers.model_request import checked_output_type, integers, read_model_request
from kepler_servers.model_server.answers import (
    MODEL_HEADER,
    archive_answer,
    reasons_answer,
    weights_answer,
    weights_members,
)
from kepler_servers.model_server.metrics import ServerMetrics
from kepler_servers.model_server.openapi import document

MAX_BODY = 256 * 1024
MAX_PAGE = 1000
MODEL_ENDPOINT = "model"
_MODEL_ROUTE = "/models/<pipeline>/<source>/<output_type>/<feature_group>/<name>"
_DAMAGED_TRIES = 5
_CONDITIONS = ("energy-source", "output-type", "feature-group", "node-type", "filter")


class ModelServer(Endpoints):
    """The bottle application (`app`) over a live catalogue."""

    def __init__(self, live: LiveCatalogue, metrics: ServerMetrics, *, model_path: str) -> None:
        super().__init__("the model server", metrics.observe)
        self.live = live
        self.metrics = metrics
        self.model_path = model_path
        self._recent = _RecentAnswers()
        self._openapi = msgspec.json.encode(document(model_path))
        self.route("POST", model_path, MODEL_ENDPOINT, self.model)
        self.route("GET", "/best-models", "best-models", self.best_models)
        self.route("GET", "/models", "models", self.models)
        self.route("GET", _MODEL_ROUTE, "stored-model", self.stored_model)
        self.route("GET", "/node-types", "node-types", self.node_types)
        self.route("GET", "/metrics", "metrics", self.exposition)
        self.route("GET", "/healthz", "healthz", self.health)
        self.route("GET", "/readyz", "readyz", self.ready)
        self.route("GET", "/openapi.json", "openapi", self.openapi)

    def answer_to(self, error: KeplerError) -> Answer | None:
        if not isinstance(error, NoModelError):
            return None
        if not self.live.current.models and self.live.store_problem is not None:
            return json_answer({"msg": f"the store cannot be read: {self.live.store_problem}"}, 503)
        return json_answer({"msg": str(error), "selection": error.explanation}, 404)

    # --- POST /model ---

    def model(self) -> Answer:
        body = bottle.request.environ["wsgi.input"].read()
        explain = flag(query("explain"), "explain")
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
        if events().heard("kepler_model_selected"):
            events().send("kepler_model_selected", model=selection.model.metadata)

    # --- GET ---

    def best_models(self) -> Answer:
        given = query(*_CONDITIONS)
        best: dict[str, dict[str, str]] = {output_type: {} for output_type in OUTPUT_TYPES}
        for model in self._find(given):
            best[model.output_type].setdefault(model.feature_group, model.name)
        if (wanted := given["output-type"]) is not None:
            best = {checked_output_type(wanted): best[wanted]}
        return json_answer(best)

    def models(self) -> Answer:
        given = query("pipeline", "trainer", *_CONDITIONS, "limit", "offset")
        found = self._find(given)
        limit = whole(given, "limit", 1, MAX_PAGE) or 100
        offset = whole(given, "offset", 0, 10**9) or 0
        return json_answer({"total": len(found), "models": [_described(m) for m in found[offset : offset + limit]]})

    def _find(self, given: dict[str, str | None]) -> list[StoredModel]:
        if (output_type := given["output-type"]) is not None:
            checked_output_type(output_type)
        return self.live.current.find(
            pipeline=given.get("pipeline"),
            source=given["energy-source"],
            output_type=output_type,
            feature_group=given["feature-group"],
            trainer=given.get("trainer"),
            node_type=whole(given, "node-type", 0, 2**31),
            filter=_filter(given["filter"]),
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
            raise NotFoundError(f"no model {path!r} in pipeline {pipeline!r}; GET /models lists them")
        headers = {MODEL_HEADER: f"{model.pipeline}/{model.path}"}
        if suffix == ".zip":
            return Answer(model.archive(), "application/zip", headers)
        if suffix == ".json":
            if model.weights is None:
                raise NotFoundError(f"{path!r} has no weights that a client may evaluate: {model.no_weights}")
            return Answer(b"{%s}" % weights_members(model), "application/json", headers)
        return Answer(model.encoded, "application/json", headers)

    def node_types(self) -> Answer:
        catalogue = self.live.current
        return json_answer(
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
        return json_answer(self._health())

    def ready(self) -> Answer:
        found = self._health()
        if not self.live.looked_at:
            raise AnswerError(503, found)
        return json_answer(found)

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
        content = answer.body
        if isinstance(content, bytes) and len(body) + len(content) <= self.LARGEST:
            headers = [*answer.header_list(), ("Content-Length", str(len(content)))]
            self._kept[body] = request, selection, Reply(200, headers, content)


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


def _filter(text: str | None) -> Filter | None:
    return None if text is None else parse_filter(text)
