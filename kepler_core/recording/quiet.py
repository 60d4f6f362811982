"""Search for the quietest blocks of a recording, in which a machine's power is its idle power.

Load is CPU time if the recording has it, otherwise CPU cycles or instructions. The recording is cut into
short blocks. A block is quiet if its load exceeds the load of the quietest block by at most a small fraction
of the machine's capacity. The capacity is the CPU time of all CPUs if their number is known, otherwise the
highest load in the recording.

Quiet blocks are found by their load and not by their power, because the lowest power in a recording may be low
only because of noise.

If no block is idle, shorter blocks are tried, down to blocks of a single timestamp. But a meter that averages
over time may not reach the idle power in such a short block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.observations import Observations

LOAD_FEATURES = ("bpf_cpu_time_ms", "cpu_cycles", "cpu_instructions")
"""Features that can measure load, in order of preference."""
BLOCK_STEPS = (5, 3, 1)
"""Lengths of blocks in timestamps. If no block of one length is idle, blocks of the next length are tried."""
QUIET_PART = 0.03
"""A block is quiet if its load exceeds that of the quietest block by at most this fraction of the CPUs' capacity."""
IDLE_PART = 0.05
"""The machine was idle if the load in the quiet blocks is at most this fraction of the CPUs' capacity."""
GAP_STEPS = 2.5
"""An interval of more than this many steps is a gap. Blocks do not span gaps."""
MIN_COVERAGE = 0.5
"""A feature can measure load only if enough of its values are known.

The minimum is this fraction of the largest number of known values that any feature of `LOAD_FEATURES` has.
"""
FEWEST_IDLE_SAMPLES = 10
"""The power at fewer idle samples than this number is too uncertain to be a node's idle power."""
_MS_PER_S = 1000.0


@attrs.frozen(eq=False)
class QuietTimes:
    """The samples of a recording that are in quiet blocks, and the load in these blocks."""

    samples: BoolArray
    """Whether each sample is in a quiet block, shape (samples,)."""
    feature: str | None
    level: float
    highest: float
    capacity: float | None
    blocks: int
    block_steps: int
    limit: float = 0.0
    """Highest mean load of a quiet block."""

    @property
    def part(self) -> float:
        """The load in the quiet blocks divided by the capacity, or by the highest load if the capacity is not known."""
        full = self.highest if self.capacity is None else self.capacity
        return self.level / full if full > 0 else 1.0

    @property
    def idle(self) -> bool:
        """Whether the machine was idle in the quiet blocks."""
        return self.feature is not None and self.part <= IDLE_PART


def load_of(observations: Observations, features: Collection[str] = LOAD_FEATURES) -> tuple[str, FloatArray] | None:
    """Return the name and the values, shape (samples,), of the feature that measures load.

    Only `features` are considered. The result is None if the observations have none of them.
    """
    counts = {
        name: int(np.isfinite(observations.node_features[name]).sum())
        for name in LOAD_FEATURES
        if name in observations.node_features and name in features
    }
    most = max(counts.values(), default=0)
    for name, count in counts.items():
        # Skip a feature with few known values: at times without a known load, no quiet block can be found.
        if count >= max(MIN_COVERAGE * most, 1):
            return name, observations.node_features[name]
    return None


def capacity_of(feature: str, machine_spec: Mapping[str, Any]) -> float | None:
    """Return the load of a machine whose CPUs are all busy; None if the load is not known."""
    cores = machine_spec.get("cores")
    return _MS_PER_S * cores if feature == "bpf_cpu_time_ms" and cores else None


def quiet_times(
    observations: Observations, machine_spec: Mapping[str, Any], highest: float | None = None
) -> QuietTimes:
    """Return the quiet times of a recording. `highest` is the highest load in other recordings of the same machine."""
    measure = load_of(observations)
    power = np.vstack([*observations.power.values()]) if observations.power else np.empty((0, 0))
    measured = np.isfinite(power).any(axis=0) if len(power) else np.zeros(len(observations.sample_time), dtype=bool)
    if measure is None:
        feature, load = None, _total_power(power, len(observations.sample_time))
    else:
        feature, load = measure
    capacity = None if feature is None else capacity_of(feature, machine_spec)
    usable = measured & np.isfinite(load)
    attempts = [_quiet(observations, usable, feature, load, capacity, highest, steps) for steps in BLOCK_STEPS]
    return next((times for times in attempts if times.idle), attempts[0])


def idle_samples(
    observations: Observations, machine_spec: Mapping[str, Any], stream: int, features: Collection[str]
) -> Iterator[BoolArray]:
    """Yield masks of the samples at which the node of a stream was idle, shape (samples,).

    There is one mask for each length of blocks. Idle samples are in quiet blocks of at least three timestamps. The load
    must be low in the sample and in the sample before it: a meter's reading covers the time since its previous reading,
    and may lag behind the load. A mask with fewer than `FEWEST_IDLE_SAMPLES` idle samples is left out, so nothing is
    yielded for a node that was never idle. The highest load of the node is taken from all of its recordings. The load
    is one of `features`.
    """
    measure = load_of(observations, features)
    if measure is None:
        return
    feature, load = measure
    capacity = capacity_of(feature, machine_spec)
    node = observations.streams[stream].node
    same_node = np.array([other.node == node for other in observations.streams])[observations.sample_stream]
    known = np.isfinite(load)
    usable = known & (observations.sample_stream == stream)
    if not usable.any():
        return
    highest = float(load[known & same_node].max())
    for steps in BLOCK_STEPS:
        times = _quiet(observations, usable, feature, load, capacity, highest, steps)
        if steps == 1 or not times.idle:
            continue
        samples = np.flatnonzero(usable)
        low = load[samples] <= times.limit
        low_before = np.concatenate([low[:1], low[:-1]])
        idle = np.zeros(len(load), dtype=bool)
        idle[samples] = times.samples[samples] & low & low_before
        if idle.sum() >= FEWEST_IDLE_SAMPLES:
            yield idle


def _quiet(
    observations: Observations,
    usable: BoolArray,
    feature: str | None,
    load: FloatArray,
    capacity: float | None,
    highest: float | None,
    steps: int,
) -> QuietTimes:
    """Return the quiet times of a recording that is cut into blocks of `steps` timestamps."""
    block = blocks(observations, usable, steps)
    n = int(block.max(initial=-1)) + 1
    if n == 0:
        return QuietTimes(np.zeros(len(load), dtype=bool), feature, 0.0, 0.0, None, 0, steps)
    rows = np.flatnonzero(block >= 0)
    size = np.bincount(block[rows], minlength=n)
    mean = np.bincount(block[rows], weights=load[rows], minlength=n) / size
    top = max(float(mean.max()), highest or 0.0)
    limit = float(mean.min()) + QUIET_PART * (top if capacity is None else capacity)
    quiet = mean <= limit
    samples = np.zeros(len(load), dtype=bool)
    samples[rows] = quiet[block[rows]]
    level = float(np.average(mean[quiet], weights=size[quiet]))
    return QuietTimes(samples, feature, level, top, capacity, int(quiet.sum()), steps, limit)


def blocks(observations: Observations, usable: BoolArray, steps: int) -> IntArray:
    """Return the index of each sample's block, shape (samples,); −1 if a sample is not `usable`.

    A block has at most `steps` timestamps of one node, and no gap.
    """
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


def _total_power(power: FloatArray, n_samples: int) -> FloatArray:
    """Return the total power of all known components at each sample, shape (samples,); NaN if no power is known.

    This power is used as the load if no feature measures load.
    """
    if len(power) == 0:
        return np.full(n_samples, np.nan)
    return np.where(np.isfinite(power).any(axis=0), np.nansum(power, axis=0), np.nan)
