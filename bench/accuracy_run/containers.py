"""Measure two powers that DynPower models predict: for an idle container, and in total for the containers of a node."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from accuracy_run.documents import read_document
from accuracy_run.figures import Figure, Settings
from accuracy_run.models import default_spec, observed, trained
from accuracy_run.other_day import OTHER_DAY
from kepler_core.estimate import estimate
from kepler_core.store.models import read_models

IDLE_ASKED_WATTS = 0.005
SUM_ASKED_PERCENT = 3.0


def measure(settings: Settings) -> list[Figure]:
    """Train the default DynPower trainers on the CoreMark recording.

    Measure the power of an idle container, and compare the sum over the containers with the power of the node.
    """
    changes = {"feature_groups": ["CounterOnly"]} if settings.quick else {}
    spec = default_spec(settings, "containers", "DynPower", energy_sources="auto", **changes)
    document = read_document(settings.path(OTHER_DAY))
    store, report = trained(settings, spec, [document])
    observations = observed(spec, document, "CoreMark")
    idle: dict[str, float] = {}
    used: dict[str, float] = {}
    for model in read_models(store.snapshot(spec.name)):
        loaded = model.load()
        watts = loaded.predict(np.zeros((1, len(loaded.features))))
        idle[model.path] = max(float(values[0]) for values in watts.values())
        used[model.path] = _worst(
            100 * (one["predicted_mean"] / one["measured_mean"] - 1)
            for one in estimate(model, observations).components.values()
            if one["measured_mean"]
        )
    held_out = {
        entry["path"]: _worst(
            percent for one in entry["components"].values() if (percent := one.get("sum_bias_percent")) is not None
        )
        for entry in report.models
    }
    worst_idle = max(idle, key=lambda path: idle[path])
    return [
        Figure(
            f"DynPower on CoreMark, worst of {len(idle)} models: power of an idle container",
            "4.6 W",
            f"≤ {1000 * IDLE_ASKED_WATTS:g} mW",
            f"{1000 * idle[worst_idle]:.1f} mW",
            idle[worst_idle] <= IDLE_ASKED_WATTS,
            {"watts": idle},
        ),
        *(
            Figure(
                f"DynPower on CoreMark: sum over the containers against the node, {times}, worst component",
                "100 W",
                f"≤ {SUM_ASKED_PERCENT:g} %",
                f"{_worst(sums.values()):+.1f} % (median of the models {np.median(np.abs(list(sums.values()))):.1f} %)",
                abs(_worst(sums.values())) <= SUM_ASKED_PERCENT,
                {"percent": sums},
            )
            for times, sums in (("at the times of the training", used), ("at held-out times", held_out))
        ),
    ]


def _worst(percents: Iterable[float]) -> float:
    """Return the percentage that is farthest from 0. Return 0 if there are no percentages."""
    return max(percents, key=abs, default=0.0)
