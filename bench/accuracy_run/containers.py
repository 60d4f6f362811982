"""What DynPower models charge an idle container, and whether the containers add up to their node."""

from __future__ import annotations

import numpy as np

from accuracy_run.documents import read_document
from accuracy_run.figures import Figure, Settings
from accuracy_run.models import default_spec, trained
from accuracy_run.other_day import OTHER_DAY
from kepler_core.store.models import read_models

IDLE_ASKED_WATTS = 0.005
SUM_ASKED_PERCENT = 3.0


def measure(settings: Settings) -> list[Figure]:
    """Train the default DynPower trainers on the CoreMark recording."""
    changes = {"feature_groups": ["CounterOnly"]} if settings.quick else {}
    spec = default_spec(settings, "containers", "DynPower", energy_sources="auto", **changes)
    store, report = trained(settings, spec, [read_document(settings.path(OTHER_DAY))])
    idle: dict[str, float] = {}
    sums: dict[str, float] = {}
    for model in read_models(store.snapshot(spec.name)):
        loaded = model.load()
        watts = loaded.predict(np.zeros((1, len(loaded.features))))
        idle[model.path] = max(float(values[0]) for values in watts.values())
    for entry in report.models:
        percents = {name: one.get("sum_bias_percent") for name, one in entry["components"].items()}
        known = [percent for percent in percents.values() if percent is not None]
        if known:
            sums[entry["path"]] = max(known, key=abs)
    worst_idle = max(idle, key=lambda path: idle[path])
    worst_sum = max(sums, key=lambda path: abs(sums[path]))
    return [
        Figure(
            f"DynPower on CoreMark, worst of {len(idle)} models: power of an idle container",
            "4.6 W",
            f"≤ {1000 * IDLE_ASKED_WATTS:g} mW",
            f"{1000 * idle[worst_idle]:.1f} mW",
            idle[worst_idle] <= IDLE_ASKED_WATTS,
            {"watts": idle},
        ),
        Figure(
            "the same: sum over the containers against the node, on held-out times, worst component",
            "100 W",
            f"≤ {SUM_ASKED_PERCENT:g} %",
            f"{sums[worst_sum]:+.1f} % ({worst_sum})",
            abs(sums[worst_sum]) <= SUM_ASKED_PERCENT,
            {"percent": sums},
        ),
    ]
