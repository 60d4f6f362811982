"""Measure the errors of models on another day.

The models are trained on the stress-ng recording, and estimate the CoreMark recording of the same machine.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping

import numpy as np

from accuracy_run.documents import Document, part, read_document, times_of
from accuracy_run.figures import Figure, Settings
from accuracy_run.models import (
    COUNTERS,
    CPU_TIME,
    SOURCE,
    Comparison,
    compared,
    default_spec,
    observed,
    selected,
    trained,
)
from accuracy_run.tail import RECORDING
from kepler_core.pipeline.recalibrate import recalibrate
from kepler_core.plugins.hooks import hooks
from kepler_core.recording import Observations
from kepler_core.store import Store, open_store

OTHER_DAY = "recordings/kepler_coremark.json"
GROUPS: Mapping[str, tuple[str, ...]] = {
    "CounterOnly": COUNTERS,
    "BasicNoPageCache": COUNTERS + CPU_TIME,
    "CPUTime": CPU_TIME,
}
"""The features that a client measures, for each feature group that the test uses."""
ASKED = {"CounterOnly": 4.5, "BasicNoPageCache": 4.5, "CPUTime": 6.0}
COVERAGE_ASKED = 0.8
METERED_SECONDS = 120.0
STARTS = (0.0, 0.25, 0.45, 0.6)
"""Where the two minutes for a recalibration begin, as fractions of the recording. Each fraction gives one test."""


def measure(settings: Settings) -> list[Figure]:
    """Train the default trainers, estimate another day, and recalibrate the models with two minutes of this day."""
    document = read_document(settings.path(OTHER_DAY))
    spec = default_spec(settings, "other-day", "AbsPower", feature_groups=list(GROUPS))
    store, _ = trained(settings, spec, [read_document(settings.path(RECORDING))])
    whole = observed(spec, document, "CoreMark")
    as_is = {group: compared(selected(store, features), whole) for group, features in GROUPS.items()}
    starts = STARTS[1:2] if settings.quick else STARTS
    known = _known_times(whole)
    after: dict[str, list[Comparison]] = {group: [] for group in GROUPS}
    for number, start in enumerate(starts):
        first = known[int(start * len(known))]
        window = (first, first + METERED_SECONDS)
        recalibrated = _recalibrated(settings, spec.name, number, _window(document, window))
        for group, features in GROUPS.items():
            comparison = compared(selected(recalibrated, features), whole)
            inside = (comparison.time >= window[0]) & (comparison.time <= window[1])
            after[group].append(comparison.only(~inside))
    return _figures(as_is, after)


def _known_times(observations: Observations) -> list[float]:
    """Return the timestamps at which all features and the power are known."""
    columns = [observations.node_features[name] for name in COUNTERS + CPU_TIME]
    known = np.isfinite([*columns, observations.power[SOURCE, "package"]]).all(axis=0)
    return [float(time) for time in observations.sample_time[known]]


def _window(document: Document, window: tuple[float, float]) -> Document:
    """Return the samples in a time window, and at the last timestamp before the window.

    The first rate in the window needs the earlier timestamp.
    """
    before = max((time for time in times_of(document) if time < window[0]), default=window[0])
    return part(document, lambda time: before <= time <= window[1])


def _recalibrated(settings: Settings, pipeline: str, number: int, metered: Document) -> Store:
    """Copy the store, recalibrate the copy with the metered recording, and return the copy."""
    folder = settings.folder / f"recalibrated-{number}"
    shutil.copytree(settings.folder / pipeline, folder, symlinks=True)
    store = open_store(str(folder))
    spec = default_spec(settings, pipeline, "AbsPower")
    observations = observed(spec, metered, f"metered {number}")
    recalibrate(store, pipeline, observations, listeners=hooks(), models=1 if settings.quick else 3, jobs=settings.jobs)
    return store


def _figures(as_is: Mapping[str, Comparison], after: Mapping[str, list[Comparison]]) -> list[Figure]:
    names = " / ".join(GROUPS)
    means = {group: float(np.mean([one.mae for one in results])) for group, results in after.items()}
    worst = {group: max(one.mae for one in results) for group, results in after.items()}
    return [
        Figure(
            f"models of stress-ng on another day (CoreMark), {names}: coverage of the 90 % interval",
            "none",
            f"≥ {100 * COVERAGE_ASKED:g} %, or flagged",
            "; ".join(
                f"{100 * one.coverage:.0f} % (MAE {one.mae:.1f} W; flags {', '.join(one.flags) or 'none'})"
                for one in as_is.values()
            ),
            all(one.coverage >= COVERAGE_ASKED or bool(one.flags) for one in as_is.values()),
            {group: one.values() for group, one in as_is.items()},
        ),
        Figure(
            f"recalibrated models of stress-ng on another day, {names}: MAE without the two metered minutes",
            "17–18 W",
            " / ".join(f"≤ {asked:g}" for asked in ASKED.values()) + " W",
            " / ".join(f"{means[group]:.1f} (worst {worst[group]:.1f})" for group in GROUPS) + " W",
            all(worst[group] <= asked for group, asked in ASKED.items()),
            {group: [one.values() for one in results] for group, results in after.items()},
        ),
    ]
