"""The pictures of a decision: power on the samples on which the models were evaluated, and the last decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from kepler_core.plots.canvas import COLOURS, MEASURED, PREDICTED, Panel, grid
from kepler_core.plots.panels import NodePower, scatter_panel, time_panel
from kepler_plugins.report.decision_record import Decision
from kepler_plugins.report.pictures import MAX_SAMPLES, Pictures

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

MAX_MODELS = 2
"""Maximum number of candidates whose predictions are drawn; candidates that are better come first."""
MAX_COMPONENTS = 3
MAX_NODES = 3
_MARKS = {"published": ("o", COLOURS[2]), "kept aside": ("s", MEASURED), "failed": ("X", PREDICTED)}
_OTHER_MARK = ("D", COLOURS[4])


def of_samples(pictures: Pictures, samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the title and the pictures of at most `MAX_MODELS` candidates.

    The pictures show the samples on which the candidates were evaluated.
    """
    entries = sorted(samples, key=lambda entry: (not entry["better"], entry["served"] is None))
    sections = []
    for entry in entries[:MAX_MODELS]:
        nodes = _node_powers(entry)
        if not nodes:
            continue
        errors = dict.fromkeys(node.component for node in nodes)
        subtitle = "samples on which neither model was trained" if entry["served"] is not None else "held-out samples"
        drawn = [pictures.svg(time_panel(subtitle, nodes)), pictures.svg(scatter_panel(subtitle, nodes, errors))]
        sections.append({"title": f"{entry['path']} ({entry['kind']})", "pictures": drawn})
    return sections


def _node_powers(entry: Mapping[str, Any]) -> list[NodePower]:
    """Return the measured and predicted power of the served and of the new model, by component and node."""
    measured: Mapping[str, Any] = entry["measured"]
    order = sorted(measured, key=lambda component: -float(np.max(measured[component], initial=0.0)))[:MAX_COMPONENTS]
    names = np.array(entry["node"], dtype=object)
    nodes = list(dict.fromkeys(entry["node"]))[:MAX_NODES]
    powers = []
    for component in order:
        for node in nodes:
            at = np.flatnonzero(names == node)[:MAX_SAMPLES]
            for label in ("served", "new"):
                predicted = None if entry[label] is None else entry[label].get(component)
                if predicted is not None and len(at):
                    name = label if len(nodes) == 1 else f"{label}, {node}"
                    powers.append(NodePower(name, component, entry["time"][at], measured[component][at], predicted[at]))
    return powers


def timeline(pictures: Pictures, decisions: Sequence[Decision]) -> str | None:
    """Return a picture of the last decisions over time; None if fewer than two have a time.

    For each decision that has compared models, it shows the errors of the served model and of the first candidate.
    """
    dated = [(time, decision) for decision in decisions if (time := _time_of(decision)) is not None]
    if len(dated) < 2:
        return None
    start = dated[0][0]

    def draw(part: SubFigure) -> None:
        (plot,) = grid(part, 1)
        highest = 0.0
        for time, decision in dated:
            hours = (time - start) / 3600
            mark, colour = _MARKS.get(decision.decision, _OTHER_MARK)
            label = decision.decision if decision.decision in _MARKS else "another decision"
            compared = [one for one in decision.models if one.served is not None and one.new is not None]
            served = new = None
            if compared and compared[0].served is not None and compared[0].new is not None:
                component = compared[0].served.worst
                served = compared[0].served.value("mae", component) if component else None
                new = compared[0].new.value("mae", component) if component else None
            if served is not None and new is not None:
                plot.plot([hours, hours], [served, new], color=colour, lw=1)
                plot.plot([hours], [served], "_", color=MEASURED, ms=10, label="served model")
                highest = max(highest, served, new)
            plot.plot([hours], [new or 0.0], mark, color=colour, ms=7, label=label)
        plot.set_ylim(-0.05 * (highest or 1.0), 1.15 * (highest or 1.0))
        plot.set(xlabel=f"hours since {dated[0][1].time} UTC", ylabel="MAE (W)")
        handles, labels = plot.get_legend_handles_labels()
        by_label = dict(zip(labels, handles, strict=True))
        part.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=4)

    subtitle = "mark: error of the candidate (0: not compared); line: from the error of the served model"
    return pictures.svg(Panel("The last decisions", subtitle, 2.6, draw))


def _time_of(decision: Decision) -> float | None:
    try:
        return datetime.strptime(decision.time or "", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
