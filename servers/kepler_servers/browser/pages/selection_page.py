"""The web page that shows which model a node with a certain machine and certain metrics would get, and why.

The page makes the body of a `POST /model` from its form, and calls the same functions as this endpoint. So the page
contains no ranking of its own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

import msgspec

from kepler_core.errors import KeplerError, NoModelError, RequestError
from kepler_core.vocabulary import OUTPUT_TYPES
from kepler_servers.browser.page_routes import PageQuery, page_route
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer
from kepler_servers.http.route import Route
from kepler_servers.live_catalogue import LiveCatalogue
from kepler_servers.model_request import read_model_request

SPEC_FIELDS = ("processor", "cores", "chips", "memory", "frequency")
_PLAIN = re.compile(r"[A-Za-z0-9_.:-]{1,100}")
"""Pattern of the feature names that the empty form lists. A foreign store may have names that users cannot read or
type."""
_FLAGS = ("exact", "weights", "portable")


class SelectionQuery(PageQuery, frozen=True, kw_only=True):
    """The fields of the form. Most fields are text, because `read_model_request` checks the values."""

    output_type: str | None = None
    metrics: str | None = None
    source: str | None = None
    processor: str | None = None
    cores: str | None = None
    chips: str | None = None
    memory: str | None = None
    frequency: str | None = None
    node_type: str | None = None
    pipeline_name: str | None = None
    trainer_name: str | None = None
    filter: str | None = None
    exact: bool = False
    weights: bool = False
    portable: bool = False

    def body(self) -> bytes:
        """Return the body of the `POST /model` request with the values of the form."""
        names = (name.strip() for name in (self.metrics or "").replace("\n", ",").split(","))
        keys = ("output_type", "source", "node_type", "pipeline_name", "trainer_name", "filter")
        request: dict[str, Any] = {"metrics": [name for name in names if name]}
        request |= {key: value for key in keys if (value := getattr(self, key)) is not None}
        if spec := {key: value for key in SPEC_FIELDS if (value := getattr(self, key)) is not None}:
            request["machine_spec"] = spec
        if self.weights:
            request["weight"] = True
        if self.portable:
            request["portable"] = True
        if self.exact:
            request["loose_node_type"] = False
        return msgspec.json.encode(request)


class SelectionPage:
    """The page that explains the selection of a model."""

    def __init__(self, site: Site, live: LiveCatalogue, model_path: str) -> None:
        self._site = site
        self._live = live
        self._model_path = model_path

    def routes(self) -> list[Route]:
        """Return the route of the page that explains the selection of a model."""
        return [page_route(self._site, "/ui/select", self.select, query=SelectionQuery)]

    def select(self, view: View, query: SelectionQuery) -> Answer:
        """Answer a request for the page with the form and, if the form was sent, with the steps of the selection."""
        catalogue = self._live.current
        features = sorted({name for model in catalogue.models for name in model.features if _PLAIN.fullmatch(name)})
        result: dict[str, Any] = {"explanation": None, "steps": [], "message": "", "no_model": False}
        if query.output_type is not None:
            result |= self._result(query)
        values = {name: value for name, value in msgspec.to_builtins(query).items() if value is not None}
        # Defaults are only set before the form is sent: a field that the user has left empty stays empty.
        if query.output_type is None:
            values |= {"metrics": ", ".join(features), "output_type": OUTPUT_TYPES[0]}
        return view.answer(
            "select.html.j2", values=values, output_types=OUTPUT_TYPES,
            spec_fields=SPEC_FIELDS, flag_fields=_FLAGS, asked=query.output_type is not None,
            sources=sorted({model.source for model in catalogue.models}),
            trainers=sorted({model.trainer for model in catalogue.models}),
            pipelines=sorted(catalogue.models_of),
            command=f"curl -d {shlex.quote(query.body().decode())} {shlex.quote(view.origin + self._model_path)}",
            **result,
        )  # fmt: skip

    def _result(self, query: SelectionQuery) -> dict[str, Any]:
        """Return the values that the template needs to explain the selection, or to explain why no model fits."""
        try:
            explanation = self._live.current.select(read_model_request(query.body())).explain()
        except NoModelError as error:
            return {"steps": _steps(error.explanation or {}), "message": error.message, "no_model": True}
        except RequestError as error:
            return {"message": str(error), "status": 400}
        except KeplerError as error:
            return {"message": str(error), "status": 503}
        return {"explanation": explanation, "steps": _steps(explanation)}


def _steps(explanation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the criteria in the order in which they were applied, each with the number of remaining models."""
    candidates = explanation.get("candidates") or {"considered": 0, "dropped": []}
    left = int(candidates["considered"])
    steps = [{"by": None, "count": 0, "why": "", "left": left}]
    for drop in candidates["dropped"]:
        left -= int(drop["count"])
        steps.append({**drop, "left": left})
    return steps
