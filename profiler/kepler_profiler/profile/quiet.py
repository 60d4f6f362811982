"""The quietest stretches of recordings: where a machine's power is its idle power.

Load is measured by CPU time where the recording has it, else by cycles or instructions. Time is cut
into short blocks; the quiet ones are those whose load is next to nothing: less than a small part of
the machine's capacity (CPU time of all its CPUs, if the number is known), else of the highest load
that was seen, above the lowest. Power is not looked at: the lowest power of a recording is as much
noise as it is idle power. Where the machine was never quiet for that long, shorter blocks are tried,
down to single intervals: there, a meter that averages over time has not come down yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.observations import Observations

LOADS = ("bpf_cpu_time_ms", "cpu_cycles", "cpu_instructions")
BLOCK_STEPS = (5, 3, 1)
"""Timestamps of a block; the first with which the machine is idle counts."""
QUIET_PART = 0.03
"""A block is quiet if its load is above the quietest one's by no more than this part of the capacity
or, where that is not known, of the highest load."""
IDLE_PART = 0.05
"""The machine did nothing if its load was less than this part of the capacity, or of the highest load."""
GAP_STEPS = 2.5
_MS_PER_S = 1000.0


@attrs.frozen(eq=False)
class QuietTimes:
    """The quiet instants of observations."""

    instants: BoolArray
    """Shape (instants,)."""
    feature: str | None
    level: float
    highest: float
    capacity: float | None
    blocks: int
    block_steps: int

    @property
    def part(self) -> float:
        """The load of the quiet blocks as a part of the capacity, or of the highest load."""
        full = self.highest if self.capacity is None else self.capacity
        return self.level / full if full > 0 else 1.0

    @property
    def idle(self) -> bool:
        """Whether the machine did nothing then."""
        return self.feature is not None and self.part <= IDLE_PART


def load_of(observations: Observations) -> tuple[str, FloatArray] | None:
    """The feature that load is measured by, and its values, shape (instants,)."""
    known = {name: int(np.isfinite(observations.node_features[name]).sum()) for name in LOADS if
             name in observations.node_features}  # fmt: skip
    most = max(known.values(), default=0)
    for name, count in known.items():
        # one that begins much later than the others would hide the quiet stretch at the beginning
        if count >= max(0.5 * most, 1):
            return name, observations.node_features[name]
    return None


def capacity_of(feature: str, machine_spec: Mapping[str, Any]) -> float | None:
    """The load of a machine that is busy on all CPUs; None where that is not known."""
    cores = machine_spec.get("cores")
    return _MS_PER_S * cores if feature == "bpf_cpu_time_ms" and cores else None


def quiet_times(
    observations: Observations, machine_spec: Mapping[str, Any], highest: float | None = None
) -> QuietTimes:
    """The quietest blocks; `highest` is a load that was seen elsewhere on the same machine."""
    found = load_of(observations)
    power = np.vstack([*observations.power.values()]) if observations.power else np.empty((0, 0))
    measured = np.isfinite(power).any(axis=0) if len(power) else np.zeros(len(observations.sample_time), dtype=bool)
    if found is None:
        feature, load = None, _any_power(power)
    else:
        feature, load = found
    capacity = None if feature is None else capacity_of(feature, machine_spec)
    usable = measured & np.isfinite(load)
    tried = [_quiet(observations, usable, feature, load, capacity, highest, steps) for steps in BLOCK_STEPS]
    return next((times for times in tried if times.idle), tried[0])


def _quiet(
    observations: Observations,
    usable: BoolArray,
    feature: str | None,
    load: FloatArray,
    capacity: float | None,
    highest: float | None,
    steps: int,
) -> QuietTimes:
    block = blocks(observations, usable, steps)
    n = int(block.max(initial=-1)) + 1
    if n == 0:
        return QuietTimes(np.zeros(len(load), dtype=bool), feature, 0.0, 0.0, None, 0, steps)
    rows = np.flatnonzero(block >= 0)
    size = np.bincount(block[rows], minlength=n)
    mean = np.bincount(block[rows], weights=load[rows], minlength=n) / size
    top = max(float(mean.max()), highest or 0.0)
    allowed = float(mean.min()) + QUIET_PART * (top if capacity is None else capacity)
    quiet = mean <= allowed
    chosen = np.zeros(len(load), dtype=bool)
    chosen[rows] = quiet[block[rows]]
    level = float(np.average(mean[quiet], weights=size[quiet]))
    return QuietTimes(chosen, feature, level, top, capacity, int(quiet.sum()), steps)


def blocks(observations: Observations, usable: BoolArray, steps: int) -> IntArray:
    """Per instant the number of its block of at most `steps` timestamps, −1 where it is in none; shape
    (instants,). A block is of one node and has no gap in it."""
    number = np.full(len(usable), -1, dtype=np.int64)
    rows = np.flatnonzero(usable)
    if len(rows) == 0:
        return number
    stream, time = observations.sample_stream[rows], observations.sample_time[rows]
    step = observations.step if np.isfinite(observations.step) else np.inf
    breaks = np.concatenate([[True], (stream[1:] != stream[:-1]) | (np.diff(time) > GAP_STEPS * step)])
    run = np.cumsum(breaks) - 1
    first = np.flatnonzero(breaks)
    within = np.arange(len(rows)) - first[run]
    key = run * (len(rows) + 1) + within // steps
    number[rows] = np.unique(key, return_inverse=True)[1]
    return number


def _any_power(power: FloatArray) -> FloatArray:
    """Power as a measure of load: the sum of the components that are known."""
    if len(power) == 0:
        return np.empty(0)
    return np.where(np.isfinite(power).any(axis=0), np.nansum(power, axis=0), np.nan)
