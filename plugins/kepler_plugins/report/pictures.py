"""The pictures of the report, as `<svg>` elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import IntArray
from kepler_core.pipeline.rows import evenly
from kepler_core.plots.canvas import Panel, inline_svg
from kepler_core.plots.panels import (
    ModelError,
    NodePower,
    curve_panel,
    error_panel,
    scatter_panel,
    time_panel,
    usage_panel,
)
from kepler_core.plots.recorded import measured_curves, measured_power, unit, usage
from kepler_core.plots.residuals import Residuals, residual_panel
from kepler_core.recording.observations import Observations
from kepler_plugins.report.chosen import Chosen

MAX_NODES = 3
"""Maximum number of nodes whose power is drawn over time for a chosen model."""
MAX_SAMPLES = 700
"""Maximum number of samples of a node that are drawn, so that the report stays small. From a longer recording, the
first samples are drawn, without gaps. A picture of every n-th sample would hide how the power changes."""

MAX_POINTS = 400
"""Maximum number of points of each component in the scatter plots. The points are evenly spaced in time."""

HELD_OUT = "on blocks of time that were held out of the training"


class Pictures:
    """Draws panels as `<svg>` elements. No id occurs in two of the elements."""

    def __init__(self) -> None:
        self._drawn = 0

    def svg(self, panel: Panel) -> str:
        """Return a panel as an `<svg>` element."""
        self._drawn += 1
        return inline_svg(panel, f"picture-{self._drawn}")


def of_model(pictures: Pictures, chosen: Chosen, observations: Observations) -> list[str]:
    """Return a chosen model's pictures: power over time, predicted against measured power, and errors against load."""
    components = chosen.components
    every, errors = _node_power(chosen, components), {}
    for component in components:
        tested = chosen.tested(component)
        error = np.abs(chosen.predicted(component) - chosen.evidence.measured[component])[tested]
        errors[component] = float(error.mean()) if len(error) else None
    shown = [
        _cut(node, np.arange(min(len(node.time), MAX_SAMPLES)))
        for node in every
        if node.node in list(chosen.evidence.node_names)[:MAX_NODES]
    ]
    feature = chosen.evidence.load_feature
    residuals = [
        Residuals(
            component,
            feature,
            unit(observations, feature),
            chosen.evidence.load[at],
            (chosen.predicted(component) - chosen.evidence.measured[component])[at],
        )
        for component in components
        if len(at := _points(np.flatnonzero(chosen.tested(component)))) > 0
    ]
    return [
        pictures.svg(time_panel(HELD_OUT, shown)),
        pictures.svg(
            scatter_panel(HELD_OUT, [_cut(node, _points(np.arange(len(node.time)))) for node in every], errors)
        ),
        pictures.svg(residual_panel(HELD_OUT, residuals)),
    ]


def of_training(pictures: Pictures, models: Sequence[Mapping[str, Any]], observations: Observations) -> list[str]:
    """Return the pictures of the whole training: errors by trainer and feature group, power curves and usage.

    `models` are the models of the training's report.
    """
    errors: dict[tuple[str, str], list[ModelError]] = {}
    for model in models:
        error = ModelError(model["feature_group"], model["trainer"], model["mae"], model["mape"])
        errors.setdefault((model["source"], model["output_type"]), []).append(error)
    panels = [error_panel(", ".join(key), of_key) for key, of_key in sorted(errors.items())]
    power = []
    for source in sorted({source for source, _ in errors}):
        if curves := measured_curves(observations, source):
            panels.append(curve_panel(f"measured by {source}", curves))
        power += [
            attrs.evolve(node, component=f"{source} {node.component}") for node in measured_power(observations, source)
        ]
    panels.append(usage_panel("measured power and features in the recordings", power, usage(observations)))
    return [pictures.svg(panel) for panel in panels]


def _node_power(chosen: Chosen, components: Sequence[str]) -> list[NodePower]:
    """Return the measured and the predicted power of each node and component, at samples with a prediction."""
    evidence = chosen.evidence
    nodes = []
    for component in components:
        half = chosen.half_width(component)
        for number, name in enumerate(evidence.node_names):
            at = np.flatnonzero((evidence.node == number) & chosen.tested(component))
            if len(at):
                nodes.append(
                    NodePower(
                        name,
                        component,
                        evidence.time[at],
                        evidence.measured[component][at],
                        chosen.predicted(component)[at],
                        None if half is None else half[at],
                    )
                )
    return nodes


def _points(indices: IntArray) -> IntArray:
    """Return at most `MAX_POINTS` evenly spaced items of `indices`."""
    return indices[evenly(len(indices), MAX_POINTS)]


def _cut(node: NodePower, at: IntArray) -> NodePower:
    """Return the power of a node at the samples with the indices `at`."""
    return attrs.evolve(
        node,
        time=node.time[at],
        measured=None if node.measured is None else node.measured[at],
        predicted=None if node.predicted is None else node.predicted[at],
        half_width=None if node.half_width is None else node.half_width[at],
    )
