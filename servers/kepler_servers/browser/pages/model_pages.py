"""The pages about pipelines and models."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kepler_core.errors import KeplerError
from kepler_core.messages import quoted
from kepler_core.selection.filters import parse_filter
from kepler_core.store.layout import REPORT_FILE
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType
from kepler_servers.browser.curve_drawing import drawing_of
from kepler_servers.browser.headers import REPORT_POLICY, SECURITY_HEADERS
from kepler_servers.browser.page_routes import PageQuery, page_route
from kepler_servers.browser.pages.model_facts import ModelFacts
from kepler_servers.browser.power_curves import PowerCurves
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer, HttpError
from kepler_servers.http.route import Route
from kepler_servers.live_catalogue import LiveCatalogue

PAGE_MODELS = 50
"""Number of models on one page of the list of models."""
MAX_PIPELINES = 500
"""Maximum number of pipelines that the first page lists."""
MAX_SHOWN_DECISIONS = 30
CURVE_POLL_SECONDS = 1
"""Interval in seconds at which the page of a model requests the power curve while it is being computed."""
MAX_SHOWN_VERSIONS = 50
MAX_REPORT_BYTES = 16 * 1024**2
"""Maximum size of a report that is sent to a browser. Reports of Kepler Core have less than 3 MB."""

_REPORT_HEADERS = {
    **SECURITY_HEADERS,
    "Content-Security-Policy": REPORT_POLICY,
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-cache",
}


class ListQuery(PageQuery, frozen=True, kw_only=True, rename="kebab"):
    """Query parameters of the list of models."""

    pipeline: str | None = None
    source: str | None = None
    output_type: OutputType | None = None
    feature_group: str | None = None
    trainer: str | None = None
    node_type: Annotated[int, Meta(ge=0, le=2**31)] | None = None
    filter: str | None = None
    offset: Annotated[int, Meta(ge=0, le=10**9)] = 0


class ModelPages:
    """The handlers of the pages about pipelines and models."""

    def __init__(self, site: Site, live: LiveCatalogue) -> None:
        self._site = site
        self._live = live
        self._curves = PowerCurves()

    def routes(self) -> list[Route]:
        """Return the routes of the pages about pipelines and models."""
        site = self._site
        return [
            page_route(site, "/", self.overview),
            page_route(site, "/ui/pipelines/<pipeline>", self.pipeline),
            page_route(site, "/ui/pipelines/<pipeline>/report", self.report),
            page_route(site, "/ui/models", self.models, query=ListQuery),
            page_route(site, "/ui/models/<pipeline>/<source>/<output_type>/<feature_group>/<name>", self.model),
        ]

    def overview(self, view: View, query: PageQuery) -> Answer:
        """Answer a request for the first page with the list of pipelines."""
        live, catalogue = self._live, self._live.current
        names = sorted({*catalogue.models_of, *catalogue.node_types, *catalogue.broken})
        rows = [
            {
                "name": name,
                "version": live.version_of(name),
                "models": catalogue.models_of.get(name, 0),
                "node_types": len(catalogue.node_types.get(name, {})),
                "best": [_lowest(catalogue.find(pipeline=name, output_type=kind)) for kind in OUTPUT_TYPES],
                "problem": catalogue.broken.get(name),
            }
            for name in names[:MAX_PIPELINES]
        ]
        return view.answer(
            "overview.html.j2", rows=rows, more=len(names) - len(rows), output_types=OUTPUT_TYPES,
            models=len(catalogue.models), store_problem=live.store_problem,
        )  # fmt: skip

    def pipeline(self, view: View, query: PageQuery, pipeline: str) -> Answer:
        """Answer a request for the page of a pipeline with its versions, decisions and models."""
        live, catalogue = self._live, self._live.current
        self._check_name(pipeline)
        versions: list[int] = []
        decisions: list[dict[str, Any]] = []
        current, store_problem, has_report = None, "", False
        try:
            versions, current = live.store.versions(pipeline), live.store.current_version(pipeline)
            decisions = live.store.decisions(pipeline)
            has_report = REPORT_FILE in live.store.snapshot(pipeline).names
        except KeplerError as error:
            store_problem = str(error)
        models = catalogue.find(pipeline=pipeline)
        return view.answer(
            "pipeline.html.j2", name=pipeline, problem=catalogue.broken.get(pipeline), store_problem=store_problem,
            served=live.version_of(pipeline), current=current, versions=versions[::-1][:MAX_SHOWN_VERSIONS],
            decisions=decisions[::-1][:MAX_SHOWN_DECISIONS], total=len(models),
            models=[ModelFacts.of(model) for model in models[:PAGE_MODELS]],
            node_types=len(catalogue.node_types.get(pipeline, {})), has_report=has_report,
        )  # fmt: skip

    def report(self, view: View, query: PageQuery, pipeline: str) -> Answer:
        """Answer with the page `report.html` of a pipeline's current version, without its scripts."""
        self._check_name(pipeline)
        snapshot = self._live.store.snapshot(pipeline)
        if REPORT_FILE not in snapshot.names:
            raise HttpError(404, f"pipeline {quoted(pipeline)} has no report")
        return Answer(200, _REPORT_HEADERS, snapshot.read(REPORT_FILE, MAX_REPORT_BYTES))

    def _check_name(self, pipeline: str) -> None:
        """Raise `HttpError` if the catalogue knows no pipeline with this name. It also knows unreadable pipelines."""
        catalogue = self._live.current
        if pipeline not in catalogue.node_types and pipeline not in catalogue.broken:
            raise HttpError(404, f"no pipeline {quoted(pipeline)} is served")

    def models(self, view: View, query: ListQuery) -> Answer:
        """Answer with one page of the list of the models that meet the conditions in the query."""
        catalogue = self._live.current
        models = catalogue.find(
            pipeline=query.pipeline,
            source=query.source,
            output_type=query.output_type,
            feature_group=query.feature_group,
            trainer=query.trainer,
            node_type=query.node_type,
            filter=None if query.filter is None else parse_filter(query.filter),
        )
        shown = models[query.offset : query.offset + PAGE_MODELS]
        fields = {
            "pipeline": sorted(catalogue.models_of),
            "source": sorted({model.source for model in catalogue.models}),
            "output-type": list(OUTPUT_TYPES),
            "feature-group": sorted({model.feature_group for model in catalogue.models}),
            "trainer": sorted({model.trainer for model in catalogue.models}),
        }
        conditions = {key: value for key, value in _parameters(query).items() if key not in ("lang", "offset")}
        return view.answer(
            "models.html.j2", total=len(models), models=[ModelFacts.of(model) for model in shown],
            offset=query.offset, step=PAGE_MODELS, fields=fields, conditions=conditions,
        )  # fmt: skip

    def model(
        self, view: View, query: PageQuery, pipeline: str, source: str, output_type: str, feature_group: str, name: str
    ) -> Answer:
        """Answer with the page of a model. The power curve is missing until it is computed."""
        path = f"{source}/{output_type}/{feature_group}/{name}"
        model = self._live.current.by_path(pipeline, path)
        if model is None:
            raise HttpError(404, f"no model {quoted(path, 200)} in pipeline {quoted(pipeline)}")
        curve = self._curves.curve(model)
        return view.answer(
            "model.html.j2",
            facts=ModelFacts.of(model),
            curve=curve,
            drawing=None if curve is None or curve.reason else drawing_of(curve),
            seconds=CURVE_POLL_SECONDS if curve is None else 0,
        )


def _lowest(models: list[StoredModel]) -> float | None:
    """Return the lowest mean absolute error of the models; None if it is not known.

    `models` must be sorted by their error, the lowest error first.
    """
    return models[0].scores.get("mae") if models else None


def _parameters(query: PageQuery) -> dict[str, Any]:
    """Return the query parameters that are set, as a mapping from the name in the URL to the value."""
    return {name: value for name, value in msgspec.to_builtins(query).items() if value is not None}
