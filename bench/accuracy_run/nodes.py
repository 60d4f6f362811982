"""Measure the intervals of models on a machine that their training did not have, with six simulated nodes."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from accuracy_run.documents import of_instances
from accuracy_run.figures import AbsentError, Figure, Settings
from accuracy_run.models import COUNTERS, Comparison, compared, default_spec, observed, selected, trained
from kepler_core.pipeline.spec import PluginSpec
from kepler_core.simulate import Simulation, recording

NODES = 6
SPREAD = 0.1
"""Standard deviation of the random factor by which the power of each node is multiplied."""
TIMESTAMPS = 200
CONTAINERS = 5
SEEDS, QUICK_SEEDS = 20, 2
TRAINERS = ("GradientBoostingRegressorTrainer", "LinearRegressionTrainer")
COVERAGE_ASKED, HALF_WIDTH_ASKED = 0.85, 0.18


def measure(settings: Settings) -> tuple[list[Figure], list[Comparison]]:
    """For each seed, train on five nodes, and compare the intervals of the sixth node with its measured power."""
    if "node_spread" not in attrs.fields_dict(Simulation):
        raise AbsentError("this version of the simulation cannot simulate nodes whose power differs")
    seeds = range(QUICK_SEEDS if settings.quick else SEEDS)
    results = [_on_the_sixth(settings, seed) for seed in seeds]
    predicted = np.concatenate([one.predicted for one in results])
    half = np.concatenate([one.half_width for one in results])
    coverage = float(np.mean([one.coverage for one in results]))
    width = float(np.mean(half / predicted))
    of_mean = float(half.mean() / predicted.mean())
    covering = sum(one.coverage >= COVERAGE_ASKED for one in results)
    figure = Figure(
        f"{NODES} simulated nodes of one type, σ = {100 * SPREAD:g} %, {len(results)} seeds: the sixth node",
        "none",
        f"coverage ≥ {100 * COVERAGE_ASKED:g} %, half-width ≤ {100 * HALF_WIDTH_ASKED:g} %",
        f"coverage {100 * coverage:.0f} %, half-width {100 * width:.1f} % "
        f"({100 * of_mean:.1f} % of the mean power); {covering} of {len(results)} nodes are covered",
        coverage >= COVERAGE_ASKED and width <= HALF_WIDTH_ASKED,
        {
            "coverage": coverage,
            "half_width": width,
            "half_width_of_mean": of_mean,
            "seeds": [one.values() for one in results],
        },
    )
    return [figure], results


def _on_the_sixth(settings: Settings, seed: int) -> Comparison:
    options: dict[str, Any] = {"nodes": NODES, "timestamps": TIMESTAMPS, "containers": CONTAINERS}
    options |= {"seed": seed, "node_spread": SPREAD}
    document = recording(Simulation(**options))
    last = max(one["metric"]["instance"] for series in document.values() for one in series)
    spec = default_spec(
        settings,
        f"nodes-{seed}",
        "AbsPower",
        feature_groups=["CounterOnly"],
        abs_trainers=[PluginSpec(name) for name in TRAINERS],
        max_rows=600,
    )
    store, _ = trained(settings, spec, [of_instances(document, lambda instance: instance != last)])
    sixth = observed(spec, of_instances(document, lambda instance: instance == last), "the sixth node")
    return compared(selected(store, COUNTERS), sixth)
