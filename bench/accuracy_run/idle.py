"""Measure the idle power that the default isolator finds in ten-minute windows of the stress-ng recording."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from accuracy_run.documents import Document, part, read_document, times_of
from accuracy_run.figures import Figure, Settings
from accuracy_run.models import COMPONENT, COUNTERS, SOURCE
from accuracy_run.tail import RECORDING
from kepler_core.arrays import BoolArray
from kepler_core.contracts import IsolationContext
from kepler_core.plugins import registry
from kepler_core.recording import Observations, observe, read_recording

WINDOW_SECONDS = 600.0
STRIDE_SECONDS = 200.0
BUSY_CPU_MS = 4000.0
"""CPU time in milliseconds per second above which the machine counts as busy: four of its 32 CPUs."""
ASKED_PERCENT = 2.0


@attrs.frozen
class _Idle:
    watts: float
    noted: bool
    """Whether the isolator has added the note that the node was never idle."""


def measure(settings: Settings) -> list[Figure]:
    """Compare the idle power that the isolator finds in windows with the power in the idle phases of the public table.

    Each window is measured twice: with its quiet times, and with only its busy times.
    """
    document = read_document(settings.path(RECORDING))
    truth = _idle_watts(settings.path("public/nx12_rapl.csv"))
    times = times_of(document)
    stride = WINDOW_SECONDS if settings.quick else STRIDE_SECONDS
    starts = np.arange(times[0], times[-1] - WINDOW_SECONDS, stride).tolist()
    quiet, busy = [], []
    for start in starts:
        observations = observe([read_recording(_window(document, start))])
        quiet.append(_idle(observations))
        is_busy = observations.node_features["bpf_cpu_time_ms"] > BUSY_CPU_MS
        busy.append(_idle(_only(observations, is_busy)))
    return [_figure(truth, quiet, busy)]


def _window(document: Document, start: float) -> Document:
    return part(document, lambda time: start <= time <= start + WINDOW_SECONDS)


def _idle_watts(path: Path) -> float:
    """Return the median package power, in watts, of the rows whose phase in the table is "idle".

    The first row of each idle phase is left out, because its power is a mean over a time that includes load.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    idle = [row for before, row in pairwise(rows) if before["phase"] == row["phase"] == "idle"]
    return float(np.median([float(row["package_power"]) for row in idle]))


def _only(observations: Observations, samples: BoolArray) -> Observations:
    """Return some samples of a node's observations. `samples` is a mask of shape (samples,) that selects them.

    The selected samples get new times, without gaps. Each sample must have one row, because the recording has one
    container.
    """
    count = int(samples.sum())
    times = observations.sample_time[0] + observations.step * np.arange(count)
    rows = samples[observations.row_sample]

    def kept(values: Any, mask: BoolArray) -> dict[Any, Any]:
        return {name: array[mask] for name, array in values.items()}

    return attrs.evolve(
        observations,
        sample_stream=observations.sample_stream[samples],
        sample_time=times,
        row_sample=np.arange(int(rows.sum())),
        row_container=observations.row_container[rows],
        container_features=kept(observations.container_features, rows),
        node_features=kept(observations.node_features, samples),
        power=kept(observations.power, samples),
        windows={},
    )


def _idle(observations: Observations) -> _Idle:
    """Return the idle power that the isolator `MinIdleIsolator` subtracts."""
    extractor = registry.extractors.create("DefaultExtractor")
    dataset = extractor.extract(observations, COUNTERS, SOURCE, (COMPONENT,), by_container=True)
    isolated = registry.isolators.create("MinIdleIsolator").isolate(dataset, IsolationContext(observations))
    assert isolated.background is not None
    watts = float(isolated.background[f"{COMPONENT}_power"].max())
    return _Idle(watts, any("was never idle" in note for note in isolated.notes))


def _figure(truth: float, quiet: Sequence[_Idle], busy: Sequence[_Idle]) -> Figure:
    percents = [100 * (idle.watts / truth - 1) for idle in quiet]
    worst = max(percents, key=abs)
    flagged = sum(idle.noted for idle in busy)
    false_alarms = sum(idle.noted for idle in quiet)
    excess = [idle.watts - truth for idle in busy]
    return Figure(
        f"idle power in 10-minute windows of stress-ng ({truth:.1f} W): with / without quiet times",
        "−0.7 / +10.9 W",
        f"± {ASKED_PERCENT:g} % / flagged",
        f"{min(percents):+.1f} … {max(percents):+.1f} % in {len(quiet)} windows, {false_alarms} flagged / "
        f"{flagged} of {len(busy)} flagged ({min(excess):+.1f} … {max(excess):+.1f} W)",
        abs(worst) <= ASKED_PERCENT and flagged == len(busy) and not false_alarms,
        {"truth": truth, "with": [attrs.asdict(one) for one in quiet], "without": [attrs.asdict(one) for one in busy]},
    )
