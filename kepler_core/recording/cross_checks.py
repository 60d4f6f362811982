"""Leave out readings that contradict the readings of other components or features of the same node.

- `leave_out_mirrored_power`: two components with the same power, because one counter is reported for both components.
- `leave_out_tiny_power`: power that is too low for a machine that works.
- `leave_out_wrong_cpu_time`: CPU time with too few CPU cycles, e.g. because it is in microseconds.
- `leave_out_still_features`: features that stand still while another feature shows that the CPUs work.
- `leave_out_usage_shifts`: usage whose unit changes during the recording.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.recording.laid_out import LaidOut
from kepler_core.vocabulary import CPU_FEATURES

FEWEST_VALUES = 20
"""A check is made only if there are at least this number of values."""
MIRRORED_FRACTION = 0.95
"""If two components have equal power in at least this fraction of the samples, one counter is reported for both
components."""
_MIRRORED = ("platform", "package", "dram")
_EQUAL = 1e-6
"""Two powers count as equal if they differ by at most this fraction of the power."""

FLOOR_WATTS = {"package": 0.1, "platform": 0.3}
"""If the CPUs of a node work, the median power of each of these components is at least this number of watts.

A Raspberry Pi Zero, one of the smallest machines that run Linux, draws about 0.4 W when it is idle."""
WORK_MS = 100.0
"""CPU time in milliseconds per second above which the CPUs count as working."""

LEAST_CYCLES_PER_MS = 20_000.0
"""Smallest number of CPU cycles in a millisecond of CPU time: a clock of 20 MHz.

The slowest CPUs of Linux servers have more than ten times as many cycles. If CPU time is counted in microseconds, there
are only a few thousand cycles in what counts as a millisecond."""
MANY_CPUS_MS = 8_000.0
"""CPU time is compared with the cycles above this number of milliseconds per second. With less work, the comparison
would say nothing, because a counter may not have been read on all CPUs."""

STILL_WORK = {"bpf_cpu_time_ms": WORK_MS, "cpu_cycles": 1e8, "cpu_instructions": 1e8}
"""Usage per second above which no other feature of the CPUs can be 0: the usage of about a tenth of a CPU."""
_SHIFTING = ("bpf_cpu_time_ms", "cpu_cycles")
"""Features whose unit is checked.

Instructions are not checked, because their number per joule depends far more on the kind of work.
"""
SHIFT_FACTOR = 8.0
"""If the slope of power over usage changes by this factor or more, while the power stays in the same range, the unit of
the usage has changed."""
CERTAIN_SHIFT = 100.0
"""If the slope of power over usage changes by this factor or more, the unit of the usage has changed, even if the range
of the power changes, too."""
CORRELATION = 0.95
"""Power follows the usage if the correlation of usage and power is at least this value."""


def cross_check(laid_out: LaidOut) -> None:
    """Leave out the readings that contradict other readings of the same node."""
    leave_out_mirrored_power(laid_out)
    leave_out_tiny_power(laid_out)
    leave_out_wrong_cpu_time(laid_out)
    leave_out_still_features(laid_out)
    leave_out_usage_shifts(laid_out)


def leave_out_mirrored_power(laid_out: LaidOut) -> None:
    """Leave out the power of two components if both have the same power, and this power varies.

    It is unknown which of the two is right.
    """
    keys = [key for key in laid_out.power if key[1] in _MIRRORED]
    for first, second in combinations(keys, 2):
        if first[1] == second[1]:
            continue  # two energy sources may read the same meter
        one, other = laid_out.power[first], laid_out.power[second]
        known = np.isfinite(one) & np.isfinite(other)
        equal = known & (np.abs(one - other) <= _EQUAL * np.abs(one))
        n_known, n_equal = laid_out.number_in_stream(known), laid_out.number_in_stream(equal)
        dropped = []
        for samples in laid_out.streams(
            (n_known >= FEWEST_VALUES) & (n_equal / np.maximum(n_known, 1) >= MIRRORED_FRACTION)
        ):
            of_stream = one[samples][known[samples]]
            if of_stream.min() < of_stream.max():
                dropped.append(np.arange(samples.start, samples.stop))
        for key in (first, second):
            _drop_power(laid_out, "mirrored_power", key, dropped)


def leave_out_tiny_power(laid_out: LaidOut) -> None:
    """Leave out all power of an energy source if the power of package or platform is too low for a busy node."""
    usage = laid_out.node_features.get("bpf_cpu_time_ms")
    if usage is None:
        return
    works = usage >= WORK_MS
    for source in sorted({source for source, _ in laid_out.power}):
        dropped = []
        for component, floor in FLOOR_WATTS.items():
            watts = laid_out.power.get((source, component))
            if watts is None:
                continue
            busy = works & np.isfinite(watts)
            n_busy, n_low = laid_out.number_in_stream(busy), laid_out.number_in_stream(busy & (watts < floor))
            # a median can only be too low if at least half of the values are too low
            dropped += [
                np.arange(samples.start, samples.stop)
                for samples in laid_out.streams((n_busy >= FEWEST_VALUES) & (2 * n_low >= n_busy))
                if np.median(watts[samples][busy[samples]]) < floor
            ]
        for key in [key for key in laid_out.power if key[0] == source]:
            _drop_power(laid_out, "impossible_power", key, dropped)


def leave_out_wrong_cpu_time(laid_out: LaidOut) -> None:
    """Leave out CPU time and CPU cycles where the CPUs have too few cycles for their CPU time."""
    time, cycles = (laid_out.node_features.get(name) for name in ("bpf_cpu_time_ms", "cpu_cycles"))
    if time is None or cycles is None:
        return
    at = np.flatnonzero((time > MANY_CPUS_MS) & (cycles > 0) & (cycles < LEAST_CYCLES_PER_MS * time))
    for name in ("bpf_cpu_time_ms", "cpu_cycles"):
        laid_out.drop_feature("few_cycles", name, at)


def leave_out_still_features(laid_out: LaidOut) -> None:
    """Leave out values of CPU time, cycles and instructions that are 0 while one of the other two shows work.

    The next interval may contain the missing usage, so its values are left out, too. A feature that is always 0 on a
    node is kept here: the module `dead_features` leaves it out.
    """
    known = {name: values for name in CPU_FEATURES if (values := laid_out.node_features.get(name)) is not None}
    works = {name: values > STILL_WORK[name] for name, values in known.items()}
    for name, values in known.items():
        others = [of_other for other, of_other in works.items() if other != name]
        if not others:
            continue
        still = (values == 0) & np.any(others, axis=0)
        still &= laid_out.any_in_stream(values > 0)[laid_out.sample_stream]
        after = np.flatnonzero(still[:-1] & (np.diff(laid_out.sample_stream) == 0)) + 1
        at = np.union1d(np.flatnonzero(still), after)
        laid_out.drop_feature("frozen_usage", name, at[np.isfinite(values[at])])


def leave_out_usage_shifts(laid_out: LaidOut) -> None:
    """Leave out a feature of a node if its unit seems to change: the relation of power to usage changes suddenly.

    It is unknown whether the values before or after the change are right.
    """
    meters = [key for key in laid_out.power if key[1] in ("package", "platform")]
    for name in [name for name in _SHIFTING if name in laid_out.node_features]:
        values = laid_out.node_features[name]
        may_change = np.zeros(len(laid_out.nodes), dtype=bool)
        for key in meters:
            may_change |= _slopes_differ(laid_out, values, laid_out.power[key])
        dropped = [
            samples.start + np.flatnonzero(np.isfinite(values[samples]))
            for samples in laid_out.streams(may_change)
            if any(_unit_changes(values[samples], laid_out.power[key][samples]) for key in meters)
        ]
        if dropped:
            laid_out.drop_feature("usage_shifts", name, np.concatenate(dropped))


def _slopes_differ(laid_out: LaidOut, usage: FloatArray, watts: FloatArray) -> BoolArray:
    """Return the streams in which the slope of power over usage may change by `SHIFT_FACTOR`, shape (streams,).

    Only these streams need the exact check of `_unit_changes`. `usage` and `watts` have the shape (samples,).
    """
    differ = np.zeros(len(laid_out.nodes), dtype=bool)
    for rows in laid_out.rows(np.isfinite(usage) & np.isfinite(watts), 2 * FEWEST_VALUES):
        x, y = rows.of(usage, 0.0), rows.of(watts, 0.0)
        n, column = rows.lengths[:, None], np.arange(x.shape[1])
        backwards = np.maximum(n - 1 - column, 0)
        last = _slopes(np.take_along_axis(x, backwards, axis=1), np.take_along_axis(y, backwards, axis=1))
        before, after = _slopes(x, y), np.take_along_axis(last, np.maximum(n - 2 - column, 0), axis=1)
        is_split = (column >= FEWEST_VALUES - 1) & (column <= n - FEWEST_VALUES - 1) & (before > 0) & (after > 0)
        is_split &= np.maximum(before, after) > SHIFT_FACTOR * np.minimum(before, after)
        differ[rows.streams] = is_split.any(axis=1)
    return differ


def _unit_changes(usage: FloatArray, watts: FloatArray) -> bool:
    """Return whether there is a time at which the unit of a node's usage changes; both arrays have shape (samples,).

    The power follows the usage before and after that time, but the slopes of power over usage differ. They differ by
    `CERTAIN_SHIFT` or more; or they differ by `SHIFT_FACTOR` or more while the power stays in the same range. The
    slope of a real machine changes much less than that while the power stays in the same range.
    """
    known = np.isfinite(usage) & np.isfinite(watts)
    x, y = usage[known], watts[known]
    n = len(x)
    if n < 2 * FEWEST_VALUES:
        return False
    first, last = _slopes(x, y), _slopes(x[::-1], y[::-1])
    at = np.arange(FEWEST_VALUES, n - FEWEST_VALUES + 1)
    before, after = first[at - 1], last[n - at - 1]
    differ = np.maximum(before, after) > SHIFT_FACTOR * np.minimum(before, after)
    for split in at[differ & (before > 0) & (after > 0)].tolist():
        parts = y[:split], y[split:]
        if max(first[split - 1], last[n - split - 1]) > CERTAIN_SHIFT * min(first[split - 1], last[n - split - 1]):
            return True
        ranges = [np.quantile(part, (0.05, 0.95)) for part in parts]
        if all(low <= np.median(part) <= high for (low, high), part in zip(ranges, parts[::-1], strict=True)):
            return True
    return False


def _slopes(x: FloatArray, y: FloatArray) -> FloatArray:
    """Return the slopes of the lines through the first 1, 2, 3, … points (x, y) of each row.

    A slope is 0 if the correlation of x and y in these first points is below `CORRELATION`. The arrays and the result
    have the shape (rows, samples) or (samples,).
    """
    n = np.arange(1, x.shape[-1] + 1)
    x, y = (values / np.maximum(np.abs(values).max(axis=-1, keepdims=True), 1e-300) for values in (x, y))
    mean_x, mean_y = np.cumsum(x, axis=-1) / n, np.cumsum(y, axis=-1) / n
    of_x, of_y = np.cumsum(x * x, axis=-1) / n - mean_x**2, np.cumsum(y * y, axis=-1) / n - mean_y**2
    common = np.cumsum(x * y, axis=-1) / n - mean_x * mean_y
    follows = (of_x > 1e-12) & (of_y > 1e-12) & (common > CORRELATION * np.sqrt(np.maximum(of_x * of_y, 0)))
    return np.divide(common, of_x, out=np.zeros(x.shape), where=follows)


def _drop_power(laid_out: LaidOut, kind: str, key: tuple[str, str], parts: list[IndexArray]) -> None:
    """Leave out the power of one component at the given samples of several nodes."""
    if parts:
        samples = np.unique(np.concatenate(parts))
        laid_out.drop_power(kind, key, samples[np.isfinite(laid_out.power[key][samples])])
