"""The web page about machines: it lists the node types of all pipelines, and their similarities to a machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kepler_core.errors import RequestError
from kepler_core.selection.similarity import rounded_down
from kepler_profiler.similarity import SpecTable
from kepler_servers.browser.page_routes import PageQuery, page_route
from kepler_servers.browser.pages.selection_page import SPEC_FIELDS
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer
from kepler_servers.http.route import Route
from kepler_servers.http.text_values import with_numbers
from kepler_servers.live_catalogue import LiveCatalogue

MAX_NODE_TYPES = 200
"""Maximum number of node types on the page. If a machine is described, the most similar node types are shown."""
MAX_MEMBERS = 10
"""Maximum number of machine names that are shown for a node type."""
_MAX_LINK_CHARACTERS = 200


class MachineQuery(PageQuery, frozen=True, kw_only=True):
    """The description of a machine, with the same fields as the key `machine_spec` of `POST /model`."""

    processor: str | None = None
    cores: str | None = None
    chips: str | None = None
    memory: str | None = None
    frequency: str | None = None


class MachinePage:
    """The page about machines."""

    def __init__(self, site: Site, live: LiveCatalogue) -> None:
        self._site = site
        self._live = live

    def routes(self) -> list[Route]:
        """Return the route of the page about machines."""
        return [page_route(self._site, "/ui/machines", self.machines, query=MachineQuery)]

    def machines(self, view: View, query: MachineQuery) -> Answer:
        """Answer a request for the page. If a machine is described, the most similar node type comes first."""
        catalogue = self._live.current
        typed = {name: value for name in SPEC_FIELDS if (value := getattr(query, name)) is not None}
        message, part, spec = "", "", {}
        try:
            spec = with_numbers(typed, "machine_spec")
        except RequestError as error:
            message, part = str(error), error.key
        rows: list[dict[str, Any]] = [
            {"pipeline": pipeline, "type": node_type, "likeness": None, "link": _link(node_type.spec)}
            for pipeline, node_types in sorted(catalogue.node_types.items())
            for _, node_type in sorted(node_types.items())
        ]
        counts: dict[tuple[str, int], int] = {}
        for model in catalogue.models:
            counts[model.pipeline, model.node_type] = counts.get((model.pipeline, model.node_type), 0) + 1
        for row in rows:
            row["models"] = counts.get((row["pipeline"], row["type"].number), 0)
        if spec and rows:
            table = SpecTable([row["type"].spec for row in rows])
            similarities = table.similarities(spec)
            order = sorted(range(len(rows)), key=lambda at: -similarities[at])[:MAX_NODE_TYPES]
            for at in order:
                rows[at]["likeness"] = table.likeness(spec, at)
                rows[at]["similarity"] = f"{rounded_down(float(similarities[at]), 3):.3f}"
            rows = [rows[at] for at in order]
        total = sum(map(len, catalogue.node_types.values()))
        return view.answer(
            "machines.html.j2", 400 if message else 200, rows=rows[:MAX_NODE_TYPES], total=total, values=typed,
            spec_fields=SPEC_FIELDS, compared=bool(spec), message=message, part=part, max_members=MAX_MEMBERS,
        )  # fmt: skip


def _link(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return query parameters that describe the machine of a node type. A link to this page contains them."""
    return {
        name: f"{value:g}" if isinstance(value, float) else str(value)[:_MAX_LINK_CHARACTERS]
        for name in SPEC_FIELDS
        if isinstance(value := spec.get(name), str | int | float) and not isinstance(value, bool)
    }
