"""Leave out readings that cannot be true, after the series of a recording are laid out by node and time.

Each rule compares the values of one node with a bound from physics or with the node's other values. It replaces values
that cannot be true by NaN, and counts them. docs/recordings.md has a table of the rules.

- `leave_out_jumps`: a few values far above all other values of the node, although the rest of the machine is as usual
  (module `jumps`).
- `leave_out_contradictions`: a few samples at which usage and power do not belong together (module `contradictions`).
- `leave_out_power`: power above a component's ceiling; a platform below its package, or a package below its core.
- `leave_out_cpu_time`: more CPU time than the node has CPUs.
- `leave_out_frozen_usage`: no usage at all while the node uses energy.
- `leave_out_dead_features`: features that are always 0 although the CPUs run (module `dead_features`).
- `cross_check`: usage and power in a wrong unit, and two components that are the same counter (module `cross_checks`).
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.recording.contradictions import MAX_CONTRADICTIONS, WHOLE_MACHINE, leave_out_contradictions
from kepler_core.recording.cross_checks import cross_check
from kepler_core.recording.dead_features import leave_out_dead_features
from kepler_core.recording.jumps import leave_out_jumps
from kepler_core.recording.laid_out import LaidOut

IDLE_QUANTILE = 0.1
"""A node without any usage is idle if its power is at most this quantile of its power at samples with usage."""

CEILING_WATTS = {"package": 4_000.0, "core": 4_000.0, "uncore": 4_000.0, "dram": 4_000.0, "platform": 50_000.0}
"""Highest power that a component of one node can have.

The largest servers have eight sockets of 500 W, and 8 TB of memory at 0.4 W per GB. (500 W is the highest thermal
design power of Intel Xeon 6900 and AMD EPYC 9005.) The largest nodes with accelerators draw about 15 kW (NVIDIA DGX
B200: 14.3 kW), mainframes up to 30 kW. If a counter counts millijoules or microjoules instead of joules, the
computed power is at least a thousand times too high."""
WHOLE_SERIES = 0.5
"""If more than this fraction of a node's values cannot be true, none of its values is used."""
RELATION_TOLERANCE = 0.9
"""The platform draws at least this multiple of the package's power, and the package at least this multiple of the
core's power. Meters may differ by some percent, and the platform's meter may lag behind."""
LAG_SECONDS = 120.0
"""Maximum lag of a meter: management controllers renew their readings at least every minute, and
Kepler reads them once a minute."""
MEAN_SECONDS = 60.0
"""Maximum length of the time over which a meter averages the power that it reports."""
CPU_TIME_TOLERANCE = 1.1
"""The measured CPU time may exceed the time of all CPUs by this factor, because scrapes are not exactly on time."""
CPU_TIME_FEATURES = ("bpf_cpu_time_ms",)


def screen(laid_out: LaidOut, cpus: int | None) -> None:
    """Leave out all readings that cannot be true. `cpus` is the number of CPUs of each node; None if unknown."""
    leave_out_frozen_usage(laid_out)
    leave_out_jumps(laid_out)
    leave_out_contradictions(laid_out)
    cross_check(laid_out)
    leave_out_power(laid_out)
    leave_out_cpu_time(laid_out, cpus)
    leave_out_dead_features(laid_out)


def leave_out_power(laid_out: LaidOut) -> None:
    """Leave out power above the ceiling of its component, and power of components that contradict each other.

    Components contradict each other if the whole (e.g. the platform) draws less than its part (the package), or than
    its parts together (package and DRAM).
    """
    for key in laid_out.power:
        ceiling = CEILING_WATTS.get(key[1], np.inf)
        _leave_out_where(laid_out, "impossible_power", key, laid_out.power[key] > ceiling)
    for whole, part in (("platform", "package"), ("package", "core")):
        for key_whole in [key for key in laid_out.power if key[1] == whole]:
            for key_part in [key for key in laid_out.power if key[1] == part]:
                if laid_out.counts.counted_twice[" ".join(key_part)]:
                    continue  # the finding `counted_twice` already tells why the part is too high
                _leave_out_contradicting(laid_out, key_whole, [key_part])
                key_dram = key_part[0], "dram"
                if whole != "platform" or key_dram not in laid_out.power:
                    continue
                if not laid_out.counts.counted_twice[" ".join(key_dram)]:
                    _leave_out_contradicting(laid_out, key_whole, [key_part, key_dram])


def _leave_out_contradicting(laid_out: LaidOut, whole: tuple[str, str], parts: list[tuple[str, str]]) -> None:
    """Leave out the power of a component and of its parts where the parts together draw more than the component."""
    of_whole = laid_out.power[whole]
    of_parts = np.sum([laid_out.power[part] for part in parts], axis=0)
    lower = _with_wrong_meters(laid_out, of_whole < RELATION_TOLERANCE * of_parts, of_whole, of_parts)
    for key in (whole, *parts):
        _leave_out_where(laid_out, "contradicting_power", key, lower)


def _with_wrong_meters(laid_out: LaidOut, lower: BoolArray, whole: FloatArray, part: FloatArray) -> BoolArray:
    """Return `lower`. If one of a node's two meters is always wrong, the result marks all samples of the node.

    `lower` marks the samples at which `whole` (e.g. the platform) draws less than `part` (e.g. the package), shape
    (samples,). For some time after a rise of the load, the cause can be a meter that lags. If more than the
    fraction `MAX_CONTRADICTIONS` of a node's samples have another cause, one of the meters measures something else,
    e.g. only one of several power supplies. The other samples of this meter are then wrong, too.
    """
    if not lower.any():
        return lower
    lower = lower.copy()
    for samples in laid_out.streams(laid_out.any_in_stream(lower)):
        time = laid_out.sample_time[samples]
        of_whole, of_part = whole[samples], part[samples]
        n_wrong = sum(not _lag_explains(time, of_whole, of_part, at) for at in np.flatnonzero(lower[samples]).tolist())
        if n_wrong > MAX_CONTRADICTIONS * np.count_nonzero(np.isfinite(of_whole) & np.isfinite(of_part)):
            lower[samples] = True
    return lower


def _lag_explains(time: FloatArray, of_whole: FloatArray, of_part: FloatArray, at: int) -> bool:
    """Return whether a lag explains that a whole (e.g. the platform) draws less than its part (e.g. the package).

    `at` is the index of the sample at which the whole draws less. The meter of the whole may lag behind the meter of
    the part, or report a mean over time. Then the meter of the whole meets two conditions. In the sample, it shows at
    least the lowest power of the part in the `LAG_SECONDS` before the sample. At some time in the `LAG_SECONDS` after
    the sample, it shows at least the mean power of the part in the `MEAN_SECONDS` before the sample.

    All arrays are of one node, shape (samples,).
    """
    since, since_mean = np.searchsorted(time, (time[at] - LAG_SECONDS, time[at] - MEAN_SECONDS)).tolist()
    until = int(np.searchsorted(time, time[at] + LAG_SECONDS, side="right"))
    earlier, later = of_part[since : at + 1], of_whole[at:until]
    return bool(
        of_whole[at] >= RELATION_TOLERANCE * np.nanmin(earlier)
        and np.nanmax(later) >= RELATION_TOLERANCE * np.nanmean(of_part[since_mean : at + 1])
    )


def _leave_out_where(laid_out: LaidOut, kind: str, key: tuple[str, str], wrong: BoolArray) -> None:
    """Leave out the power of `key` (energy source and component) at the samples that `wrong` marks.

    If more than the fraction `WHOLE_SERIES` of a node's samples are marked, leave out all samples of the node.
    """
    if not wrong.any():
        return
    known = np.isfinite(laid_out.power[key])
    is_whole = laid_out.number_in_stream(wrong) > WHOLE_SERIES * laid_out.number_in_stream(known)
    laid_out.drop_power(kind, key, np.flatnonzero(known & (wrong | is_whole[laid_out.sample_stream])))


def leave_out_cpu_time(laid_out: LaidOut, cpus: int | None) -> None:
    """Leave out CPU time that exceeds the node's CPUs, each of which has 1000 ms per second."""
    for name in CPU_TIME_FEATURES:
        if cpus is not None and name in laid_out.node_features:
            limit = cpus * 1000.0 * CPU_TIME_TOLERANCE
            at = np.flatnonzero(laid_out.node_features[name] > limit)
            laid_out.drop_feature("impossible_cpu_time", name, at)


def leave_out_frozen_usage(laid_out: LaidOut) -> None:
    """Leave out usage that is zero in all counters of a node while the node uses energy.

    If the node's power is low at this time (`IDLE_QUANTILE`), the node is idle, and its usage is kept. Otherwise the
    counters were not updated. The next interval may then contain the missing usage, so its usage is left out, too. If
    the usage of a node is zero at all samples, none of it is left out.
    """
    usage = [
        name for name in laid_out.node_features if name not in laid_out.gauges and name in laid_out.container_features
    ]
    if not usage:
        return
    values = np.vstack([laid_out.node_features[name] for name in usage])
    known = np.isfinite(values)
    any_known: BoolArray = np.any(known, axis=0)
    still: BoolArray = any_known & np.all(np.where(known, values, 0.0) == 0, axis=0)
    n_still, n_known = laid_out.number_in_stream(still), laid_out.number_in_stream(any_known)
    dropped = []
    for samples in laid_out.streams((n_still > 0) & (n_still < n_known)):
        powers = [watts[samples] for (_, component), watts in laid_out.power.items() if component in WHOLE_MACHINE]
        frozen = _without_idle_runs(still[samples], powers)
        after = np.concatenate([[False], frozen[:-1]])
        dropped.append(samples.start + np.flatnonzero(frozen | after))
    if dropped:
        at = np.concatenate(dropped)
        for name in usage:
            laid_out.drop_feature("frozen_usage", name, at[np.isfinite(laid_out.node_features[name][at])])


def _without_idle_runs(still: BoolArray, powers: list[FloatArray]) -> BoolArray:
    """Return the samples without usage, except those at which the node is idle (see `IDLE_QUANTILE`)."""
    frozen = still.copy()
    idle_watts = []
    for watts in powers:
        others = watts[~still & np.isfinite(watts)]
        if len(others) and others.min() < others.max():
            idle_watts.append((watts, float(np.quantile(others, IDLE_QUANTILE))))
    edges = np.flatnonzero(np.diff(still, prepend=False, append=False))
    for start, end in edges.reshape(-1, 2).tolist():
        is_idle = []
        for watts, highest in idle_watts:
            of_run = watts[start:end][np.isfinite(watts[start:end])]
            if len(of_run):
                is_idle.append(float(of_run.mean()) <= highest)
        if is_idle and all(is_idle):
            frozen[start:end] = False
    return frozen
