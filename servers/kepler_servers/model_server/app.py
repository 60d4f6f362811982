"""The endpoints of the model server."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from kepler_core import __version__
from kepler_core.errors import KeplerError, NoModelError, RequestError, StoreError
from kepler_core.plugins.hooks import hooks
from kepler_core.selection import ModelRequest, Selection
from kepler_core.selection.filters import parse_filter
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType
from kepler_servers.browser.model_browser import model_browser
from kepler_servers.http.answer import RETRY_LATER, Answer, HttpError, json_answer
from kepler_servers.http.answer_cache import AnswerCache
from kepler_servers.http.app import App
from kepler_servers.http.metrics import CONTENT_TYPE
from kepler_servers.http.route import Returns, Route
from kepler_servers.live_catalogue import LiveCatalogue
from kepler_servers.model_request import ModelRequestBody, integers, read_model_request
from kepler_servers.model_server.answers import (
    MODEL_HEADER,
    SELECTION_HEADER,
    Health,
    ListedModel,
    ListedNodeType,
    ModelPage,
    ModelServerError,
    PipelineHealth,
    Weights,
    archive_answer,
    model_header,
    portable_answer,
    weights_answer,
    weights_members,
)
from kepler_servers.model_server.initial import InitialPipelines
from kepler_servers.model_server.metrics import ServerMetrics

T = TypeVar("T")

MAX_BODY_BYTES = 256 * 1024
MODEL_ENDPOINT = "model"
_DAMAGED_TRIES = 5
"""Maximum number of models that are tried for a request. If the best model is damaged, the server tries the next best
one."""


class ModelQuery(msgspec.Struct, frozen=True):
    """Query parameters of `POST /model`."""

    explain: Annotated[bool, Meta(description="Return only the explanation of the selection, without the model.")] = (
        False
    )


class Conditions(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Query parameters with the conditions that listed models must meet."""

    energy_source: Annotated[str, Meta(description="Energy source of the models, e.g. rapl-sysfs.")] | None = None
    output_type: (
        Annotated[OutputType, Meta(description="AbsPower: power of a node. DynPower: of a container.")] | None
    ) = None
    feature_group: Annotated[str, Meta(description="Feature group of the models, e.g. CounterOnly.")] | None = None
    node_type: (
        Annotated[int, Meta(ge=-1, le=2**31, description="Number of the node type. -1 counts as an absent parameter.")]
        | None
    ) = None
    filter: (
        Annotated[
            str,
            Meta(
                examples=["mae:5;package_mape:10"],
                description="Conditions on errors and features of the models, separated by semicolons.",
            ),
        ]
        | None
    ) = None


class BestModelsQuery(Conditions, frozen=True, kw_only=True, rename="kebab"):
    """Query parameters of `GET /best-models`. Some parameters also have an old name, which kepler-model-server uses."""

    source: Annotated[str, Meta(description="Old name of energy-source.")] | None = None
    ot: Annotated[OutputType, Meta(description="Old name of output-type.")] | None = None
    fg: Annotated[str, Meta(description="Old name of feature-group.")] | None = None

    def conditions(self) -> Conditions:
        """Return the conditions under their new names.

        Raise `RequestError` if a parameter was sent under both names.
        """
        return Conditions(
            energy_source=_one_of("source", self.source, "energy-source", self.energy_source),
            output_type=_one_of("ot", self.ot, "output-type", self.output_type),
            feature_group=_one_of("fg", self.fg, "feature-group", self.feature_group),
            node_type=self.node_type,
            filter=self.filter,
        )


def _one_of(old_name: str, old: T | None, name: str, value: T | None) -> T | None:
    if old is not None and value is not None:
        raise RequestError(old_name, f"this value is also given as {name}; one of them is enough")
    return value if old is None else old


class ModelsQuery(Conditions, frozen=True, kw_only=True, rename="kebab"):
    """Query parameters of `GET /models`."""

    pipeline: Annotated[str, Meta(description="Pipeline of the models.")] | None = None
    trainer: Annotated[str, Meta(description="Trainer of the models, e.g. XgboostFitTrainer.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000, description="Maximum number of listed models.")] = 100
    offset: Annotated[int, Meta(ge=0, le=10**9, description="Number of models to skip.")] = 0


class ModelServer:
    """The model server's application, which answers requests from a live catalogue of the model store."""

    def __init__(
        self,
        live: LiveCatalogue,
        metrics: ServerMetrics,
        initial: InitialPipelines,
        *,
        model_path: str,
        quick: bool = False,
    ) -> None:
        """If `quick` is true, the event loop itself answers requests. Use `quick` only with a local store, which is
        read fast."""
        self.live = live
        self.initial = initial
        self.metrics = metrics
        self.cache = AnswerCache(model_path, MODEL_ENDPOINT, data=lambda: live.current, observe=metrics.observe)
        self.app = App(
            "model server",
            [*self._routes(model_path, quick), *self._pages(model_path)],
            observe=metrics.observe,
            description="Returns the power model that fits a machine best, and the reasons.",
            error=ModelServerError,
            http_error=self._http_error,
        )

    def _routes(self, model_path: str, quick: bool) -> list[Route]:
        health = Returns({"application/json": Health})
        not_ready = Returns(
            {"application/json": Health}, status=503, description="There is no model yet; `not_ready` has the reason."
        )
        model = Returns(
            {"application/json": Weights, "application/zip": bytes},
            description="The model.",
            headers={
                MODEL_HEADER: "Pipeline and path of the model.",
                SELECTION_HEADER: "The reasons for the selection, as JSON; only with a zip.",
            },
        )
        stored = Returns({"application/json": dict[str, Any], "application/zip": bytes}, description="The model.")
        return [
            Route(
                "POST", model_path, MODEL_ENDPOINT, self.model,
                summary="Return the model that fits the request best, as weights in JSON or as a zip archive.",
                query=ModelQuery, body=ModelRequestBody, returns=[model], errors=(400, 404, 408, 413, 503), quick=quick,
            ),
            Route(
                "GET", "/best-models", "best-models", self.best_models,
                summary="Return, for each output type and feature group, the model with the lowest error.",
                query=BestModelsQuery, returns=dict[str, dict[str, str]], errors=(503,),
            ),
            Route(
                "GET", "/models", "models", self.models,
                summary="List the served models. The model with the lowest error comes first.",
                query=ModelsQuery, returns=ModelPage,
            ),
            Route(
                "GET", "/models/<pipeline>/<source>/<output_type>/<feature_group>/<name>", "stored-model",
                self.stored_model,
                parameters={
                    "pipeline": "Name of the pipeline.", "source": "Energy source.",
                    "output_type": "AbsPower or DynPower.", "feature_group": "Feature group.",
                    "name": "Name of the model: trainer and node type, e.g. SGDRegressorTrainer_0.",
                },
                summary="Return a model's metadata. Append .json to the name for its weights, .zip for its archive.",
                returns=[stored], errors=(404, 503),
            ),
            Route(
                "GET", "/node-types", "node-types", self.node_types,
                summary="List the node types of each pipeline.",
                returns=dict[str, dict[str, ListedNodeType]],
            ),
            Route(
                "GET", "/metrics", "metrics", self.exposition,
                summary="Return Prometheus metrics: weights and errors of the models, requests and latencies.",
                returns=[Returns({"text/plain": str})],
            ),
            Route(
                "GET", "/healthz", "healthz", self.health,
                summary="Report the served and the broken pipelines.", returns=[health], quick=quick,
            ),
            Route(
                "GET", "/readyz", "readyz", self.ready,
                summary="Report whether the server can answer requests for models.",
                returns=[health, not_ready], quick=quick,
            ),
        ]  # fmt: skip

    def _pages(self, model_path: str) -> list[Route]:
        return model_browser(self.live, model_path=model_path, health=self.health, document=lambda: self.app.document)

    def _http_error(self, error: KeplerError) -> HttpError | None:
        if not isinstance(error, NoModelError):
            return None
        if not self.live.current.models and self.live.store_problem is not None:
            return HttpError(503, f"the store cannot be read: {self.live.store_problem}")
        return HttpError(404, str(error), selection=error.explanation)

    # --- handler of POST /model ---

    def model(self, query: ModelQuery, body: bytes) -> Any:
        request = read_model_request(body)
        for _ in range(_DAMAGED_TRIES):
            catalogue = self.live.current
            selection = catalogue.select(request)
            if query.explain:
                return {"selection": selection.explain()}
            try:
                answer = _answer(request, selection)
            except StoreError as error:
                self.live.drop(selection.model, str(error))
                continue
            count = partial(self._count, request.output_type, selection)
            self.cache.keep(catalogue, body, answer, count)
            count()
            return answer
        raise StoreError("the models that fit the request are damaged; GET /healthz gives the reasons")

    def _count(self, output_type: str, selection: Selection) -> None:
        self.metrics.selected(output_type, selection.node_type.match)
        if hooks().has_listeners("kepler_model_selected"):
            hooks().call("kepler_model_selected", model=selection.model.metadata)

    # --- handlers of GET requests ---

    def best_models(self, query: BestModelsQuery) -> dict[str, dict[str, str]]:
        if (reason := self._not_ready()) is not None:
            raise HttpError(503, reason, RETRY_LATER)
        conditions = query.conditions()
        best: dict[str, dict[str, str]] = {output_type: {} for output_type in OUTPUT_TYPES}
        for model in self._find(conditions):
            best[model.output_type].setdefault(model.feature_group, model.name)
        return best if conditions.output_type is None else {conditions.output_type: best[conditions.output_type]}

    def models(self, query: ModelsQuery) -> ModelPage:
        models = self._find(query, pipeline=query.pipeline, trainer=query.trainer)
        page = models[query.offset : query.offset + query.limit]
        return ModelPage(len(models), [ListedModel.of(model) for model in page])

    def _find(
        self, conditions: Conditions, pipeline: str | None = None, trainer: str | None = None
    ) -> list[StoredModel]:
        return self.live.current.find(
            pipeline=pipeline,
            source=conditions.energy_source,
            output_type=conditions.output_type,
            feature_group=conditions.feature_group,
            trainer=trainer,
            node_type=None if conditions.node_type == -1 else conditions.node_type,
            filter=None if conditions.filter is None else parse_filter(conditions.filter),
        )

    def stored_model(self, pipeline: str, source: str, output_type: str, feature_group: str, name: str) -> Answer:
        """Return a model's metadata; its weights if `name` ends in .json; its archive if `name` ends in .zip."""
        stem, suffix = name, ""
        for ending in (".json", ".zip"):
            if name.endswith(ending):
                stem, suffix = name.removesuffix(ending), ending
        path = f"{source}/{output_type}/{feature_group}/{stem}"
        model = self.live.current.by_path(pipeline, path)
        if model is None:
            raise HttpError(404, f"no model {path!r} in pipeline {pipeline!r}; GET /models lists the models")
        if suffix == ".zip":
            return Answer(200, {"Content-Type": "application/zip", **model_header(model)}, model.archive())
        headers = {"Content-Type": "application/json", **model_header(model)}
        if suffix == ".json":
            if model.weights is None:
                raise HttpError(404, f"{path!r} has no weights that a client may evaluate: {model.no_weights}")
            return Answer(200, headers, b"{%s}" % weights_members(model))
        return Answer(200, headers, model.encoded)

    def node_types(self) -> dict[str, dict[str, ListedNodeType]]:
        return {
            pipeline: {
                str(number): ListedNodeType(integers(node_type.spec), node_type.members)
                for number, node_type in sorted(node_types.items())
            }
            for pipeline, node_types in sorted(self.live.current.node_types.items())
        }

    def exposition(self) -> Answer:
        return Answer(200, {"Content-Type": CONTENT_TYPE}, self.metrics.exposition())

    def health(self) -> Health:
        live = self.live
        return Health(
            status="degraded" if live.broken or live.store_problem else "ok",
            version=__version__,
            store=live.store.location,
            store_problem=live.store_problem,
            models=len(live.current.models),
            pipelines={
                name: PipelineHealth(live.version_of(name), count) for name, count in live.current.models_of.items()
            },
            broken=live.broken,
            not_ready=self._not_ready(),
        )

    def ready(self) -> Answer:
        health = self.health()
        return json_answer(health) if health.not_ready is None else json_answer(health, 503, RETRY_LATER)

    def _not_ready(self) -> str | None:
        """Return the reason why the server cannot answer requests for models yet; None if it can answer them.

        Kepler requests a model only once, when it starts. Deployments start Kepler as soon as `GET /best-models` has
        status 200, so the status must be different until the server can answer.
        """
        live = self.live
        if not self.initial.settled:
            return "the initial pipelines are being imported"
        if live.current.models:
            return None
        if live.store_problem is not None:
            return f"the store cannot be read: {live.store_problem}"
        if live.broken:
            return f"no pipeline of the store {live.store.location} can be read; GET /healthz gives the reasons"
        return f"the store {live.store.location} has no model yet"


def _answer(request: ModelRequest, selection: Selection) -> Answer:
    """Return the answer with the selected model, in the form that the client requests."""
    if request.weights:
        return weights_answer(selection)
    return portable_answer(selection) if request.portable else archive_answer(selection)
