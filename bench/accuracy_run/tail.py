"""Train models on the first 70 % of the stress-ng recording, and measure their errors on the last 30 %."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from accuracy_run.documents import Document, part, read_document, times_of
from accuracy_run.figures import Figure, Settings
from accuracy_run.models import COUNTERS, Comparison, compared, default_spec, observed, selected, trained
from kepler_core.store.models import StoredModel, read_models

RECORDING = "recordings/kepler_stressng.json.gz"
FIRST = 0.7
"""Fraction of the timestamps on which the models are trained."""
GAP_SECONDS = 60.0
"""Time between the last timestamp of the training and the first timestamp of the test."""
WORST_ASKED, SELECTED_ASKED, COVERAGE_ASKED, WIDTH_ASKED = 40.0, 9.0, 0.88, 75.0


@attrs.frozen(eq=False)
class Tail:
    """Estimated and measured power in the last 30 % of the recording (the tail)."""

    models: Sequence[Comparison]
    from_all: Comparison
    """Estimates of the model that is selected for a client that measures all features of the recording."""
    from_counters: Comparison
    """Estimates of the model that is selected for a client that measures only the hardware counters."""


def halves(document: Document) -> tuple[Document, Document, float]:
    """Divide a recording into a first part for the training and a second part for the test.

    Return both parts, and the time at which the test begins.
    """
    times = times_of(document)
    last = times[int(FIRST * (len(times) - 1))]  # the first timestamp is left out, because it has no rate
    return part(document, lambda time: time <= last), part(document, lambda time: time > last), last + GAP_SECONDS


def measure(settings: Settings) -> tuple[list[Figure], Tail]:
    """Train the default trainers on the first part of the recording, and test each model on the last part."""
    first, rest, start = halves(read_document(settings.path(RECORDING)))
    changes = {"feature_groups": ["CounterOnly", "BasicNoPageCache"]} if settings.quick else {}
    spec = default_spec(settings, "tail", "AbsPower", **changes)
    store, _ = trained(settings, spec, [first])
    observations = observed(spec, rest, "tail")

    def on_tail(model: StoredModel) -> Comparison:
        comparison = compared(model, observations)
        return comparison.only(comparison.time > start)

    models = [on_tail(model) for model in read_models(store.snapshot(spec.name))]
    result = Tail(models, on_tail(selected(store, observations.features)), on_tail(selected(store, COUNTERS)))
    return _figures(result), result


def _figures(tail: Tail) -> list[Figure]:
    worst = max(tail.models, key=lambda model: model.mae)
    chosen = {"all features": tail.from_all, "CounterOnly": tail.from_counters}
    return [
        Figure(
            f"stress-ng, last 30 %: package MAE of the worst of {len(tail.models)} models",
            "296 W",
            f"≤ {WORST_ASKED:g} W",
            f"{worst.mae:.1f} W ({worst.model.feature_group}/{worst.model.name})",
            worst.mae <= WORST_ASKED,
            {"models": [model.values() for model in tail.models]},
        ),
        Figure(
            "stress-ng, last 30 %: package MAE of the selected model, with all features / CounterOnly",
            "11.7 / 15.4 W",
            f"≤ {SELECTED_ASKED:g} / {SELECTED_ASKED:g} W",
            " / ".join(f"{one.mae:.1f} W" for one in chosen.values()),
            all(one.mae <= SELECTED_ASKED for one in chosen.values()),
            {name: one.values() for name, one in chosen.items()},
        ),
        Figure(
            "stress-ng, last 30 %: coverage and mean full width of the selected model's 90 % interval",
            "none",
            f"≥ {100 * COVERAGE_ASKED:g} %, ≤ {WIDTH_ASKED:g} W",
            " / ".join(f"{100 * one.coverage:.0f} %, {one.width:.0f} W" for one in chosen.values()),
            all(one.coverage >= COVERAGE_ASKED and one.width <= WIDTH_ASKED for one in chosen.values()),
        ),
    ]
