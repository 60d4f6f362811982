"""Leave out readings that cannot be true, after the series of a recording are laid out by node and time.

Each rule compares the values of one node with a bound from physics or with the node's other values, writes NaN
over the values that cannot be true, and counts them. docs/recordings.md has a table of the rules.

- `leave_out_jumps`: a few values far above all others of the node, while the rest of the machine is as usual.
- `leave_out_contradictions`: a few samples at which usage and power do not belong together.
- `leave_out_power`: power above a component's ceiling; a platform below its package, or a package below its core.
- `leave_out_cpu_time`: more CPU time than the node has CPUs.
- `leave_out_frozen_usage`: no usage at all while the node uses energy.
- `leave_out_dead_features`: features that are always 0 although the CPUs run (module `dead_features`).
- `cross_check`: usage and power in a wrong unit, and two components that are the same counter (module `cross_checks`).
"""

from __future__ import annotations

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray
from kepler_core.recording.cross_checks import cross_check
from kepler_core.recording.dead_features import leave_out_dead_features
from kepler_core.recording.laid_out import LaidOut
from kepler_core.vocabulary import CPU_FEATURES

JUMP_FACTOR = 2.0
"""A value of a node may be a jump if it is above this multiple of the next lower value of the node. All higher values
may then be jumps, too. Among hundreds of true readings of a running machine, no value is so far above the
next lower value."""
BURSTY_JUMP_FACTOR = 1000.0
"""Replaces `JUMP_FACTOR` for features that come in bursts without much work, such as interrupts of network and disk."""
RATE_CEILING = 1e14
"""Highest rate that a usage counter can have: 8192 CPUs with 12 thousand million cycles per second each."""
MAX_JUMPS = 0.05
"""Maximum fraction of a node's values that can be jumps. If there are more high values, they come from a workload, or
from a wrong unit."""
FEWEST_VALUES = 20
"""Minimum number of values from which a node's usual values are determined."""
USUAL_QUANTILE = 0.99
"""Quantile for a node's highest usual value: a few damaged values hardly change it."""
CONTRADICTION_SPREADS = 0.5
"""Usage and power contradict each other only if the power differs enough from the usual power at this usage.

The difference must be more than this multiple of the node's power range."""
CONTRADICTION_DEVIATIONS = 10.0
"""Usage and power contradict each other only if the power differs enough from the usual power at this usage.

The difference must also be more than this multiple of the median difference of all samples of the node."""
CONTRADICTION_RANKS = 0.3
"""In a contradiction, the ranks of usage and power differ by more than this number. The rank of a value among the
values of its node is 0 for the lowest value and almost 1 for the highest value."""
MAX_CONTRADICTIONS = 0.02
"""Maximum fraction of a node's samples that can be contradictions. If there are more, all samples are kept."""
_WHOLE = ("package", "platform")
"""The components whose power rises with any work of the CPUs."""
_MAX_BINS = 20
_BIN_SAMPLES = 5
IDLE_QUANTILE = 0.1
"""A node without any usage is idle if its power is at most this quantile of its power at samples with usage."""

CEILING_WATTS = {"package": 4_000.0, "core": 4_000.0, "uncore": 4_000.0, "dram": 4_000.0, "platform": 50_000.0}
"""Highest power that a component of one node can have.

The largest servers have eight sockets of 500 W (Intel Xeon 6900, AMD EPYC 9005: thermal design power up to
500 W), and 8 TB of memory at 0.4 W per GB. The largest nodes with accelerators draw about 15 kW (NVIDIA DGX
B200: 14.3 kW), mainframes up to 30 kW. Counters in microjoules or millijoules exceed the ceilings a
thousandfold or more."""
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
"""CPU time may exceed the number of CPUs by this factor, because scrapes are not exactly on time."""
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


def leave_out_jumps(laid_out: LaidOut) -> None:
    """Leave out jumps of usage without a rise of power, and jumps of power without a rise of usage.

    A counter may jump because of a damaged value, a value of 2^64, or a wrap of its register that was counted
    twice. One rate is then far above all others. A short burst of work looks alike, but raises usage and power
    together.
    """
    usage = [name for name in laid_out.node_features if name not in laid_out.gauges]
    work = [name for name in usage if name in CPU_FEATURES] or usage
    dropped_power: dict[tuple[str, str], list[IndexArray]] = {key: [] for key in laid_out.power}
    dropped_usage: dict[str, list[IndexArray]] = {name: [] for name in usage}
    for samples in laid_out.streams():
        powers = [watts[samples] for watts in laid_out.power.values()]
        features = {name: laid_out.node_features[name][samples] for name in usage}
        for name, values in features.items():
            factor = JUMP_FACTOR if name in CPU_FEATURES else BURSTY_JUMP_FACTOR
            jumps = _jumps(values, powers, factor) | (values > RATE_CEILING)
            features[name] = np.where(jumps, np.nan, values)
            dropped_usage[name].append(samples.start + np.flatnonzero(jumps))
        of_work = [features[name] for name in work]
        for key, watts in zip(laid_out.power, powers, strict=True):
            dropped_power[key].append(samples.start + np.flatnonzero(_jumps(watts, of_work, JUMP_FACTOR, True)))
    for key, at in dropped_power.items():
        laid_out.drop_power("power_jumps", key, np.concatenate(at))
    for name, at in dropped_usage.items():
        laid_out.drop_feature("usage_jumps", name, np.concatenate(at))


def _jumps(values: FloatArray, others: list[FloatArray], factor: float, are_watts: bool = False) -> BoolArray:
    """Return which values are jumps that no array of `others` confirms, shape (samples,).

    `values` are power (`are_watts`) and `others` are usage, or the reverse. An array of `others` confirms a jump if it
    is above its own usual maximum at the same sample. Power rises at most in proportion to usage. So if the usage is n
    times its usual maximum, it confirms only power up to n · `factor` times the usual maximum of power.
    """
    is_jump = np.zeros(len(values), dtype=bool)
    known = np.flatnonzero(np.isfinite(values))
    n = len(known)
    if n < FEWEST_VALUES:
        return is_jump
    descending = np.sort(values[known])[::-1]
    most = max(int(MAX_JUMPS * n), 1)
    gaps = np.flatnonzero((descending[:most] > factor * descending[1 : most + 1]) & (descending[1 : most + 1] > 0))
    if not len(gaps):
        return is_jump
    candidates = known[values[known] >= descending[gaps[-1]]]
    usual = np.setdiff1d(known, candidates)
    for other in others:
        of_usual = other[usual]
        of_usual = of_usual[np.isfinite(of_usual)]
        if len(of_usual) < FEWEST_VALUES or of_usual.min() == of_usual.max():
            continue
        # A jump is confirmed if, at the same sample, `other` is above its own usual maximum. The usual maximum may be a
        # damaged value, so it is limited to `JUMP_FACTOR` times a high quantile.
        most_of_usual = min(of_usual.max(), JUMP_FACTOR * np.quantile(of_usual, USUAL_QUANTILE))
        confirmed = other[candidates] > most_of_usual
        if are_watts:
            rise = np.divide(
                other[candidates], most_of_usual, out=np.full(len(candidates), np.inf), where=most_of_usual > 0
            )
            confirmed &= values[candidates] <= factor * values[usual].max() * rise
        candidates = candidates[~confirmed]
    is_jump[candidates] = True
    # a counter jumps in one interval; work that goes on for longer is no jump
    lasting = np.zeros(len(values), dtype=bool)
    lasting[1:] = is_jump[1:] & is_jump[:-1]
    lasting[:-1] |= lasting[1:]
    return is_jump & ~lasting


def leave_out_contradictions(laid_out: LaidOut) -> None:
    """Leave out a few samples at which usage and power contradict each other, though both are in their usual ranges.

    The usual power of a sample is the median power of samples with similar usage. A sample is a contradiction if
    three conditions hold: its power is far from the usual power; either its usage or its power is high among the
    node's values, but not both; and its usage or its power differs from the samples before and after.

    If more than `MAX_CONTRADICTIONS` of the samples are contradictions, all samples are kept, because the power
    then depends on more than the usage.
    """
    work = [name for name in CPU_FEATURES if name in laid_out.node_features]
    meters = [key for key in laid_out.power if key[1] in _WHOLE]
    dropped_power: dict[tuple[str, str], list[IndexArray]] = {key: [] for key in meters}
    dropped_usage: dict[str, list[IndexArray]] = {name: [] for name in work}
    for samples in laid_out.streams() if work else ():
        wrong = {
            (name, key): _contradictions(laid_out.node_features[name][samples], laid_out.power[key][samples])
            for name in work
            for key in meters
            if np.isfinite(laid_out.power[key][samples]).any()
        }
        for name in work:  # a wrong usage contradicts all meters, a wrong power contradicts all kinds of usage
            of_feature = [is_wrong for (feature, _), is_wrong in wrong.items() if feature == name]
            if of_feature:
                dropped_usage[name].append(samples.start + np.flatnonzero(np.logical_and.reduce(of_feature)))
        for key in meters:
            of_meter = [is_wrong for (_, meter), is_wrong in wrong.items() if meter == key]
            if len(of_meter) > 1:
                dropped_power[key].append(samples.start + np.flatnonzero(np.logical_and.reduce(of_meter)))
    for key, parts in dropped_power.items():
        if parts:
            laid_out.drop_power("contradictions", key, np.concatenate(parts))
    for name, parts in dropped_usage.items():
        if parts:
            laid_out.drop_feature("contradictions", name, np.concatenate(parts))


def _contradictions(usage: FloatArray, watts: FloatArray) -> BoolArray:
    """Return the samples whose usage and power contradict each other, shape (samples,)."""
    contradicts = np.zeros(len(usage), dtype=bool)
    known = np.flatnonzero(np.isfinite(usage) & np.isfinite(watts))
    n = len(known)
    if n < FEWEST_VALUES:
        return contradicts
    x, y = usage[known], watts[known]
    spread = float(np.quantile(y, 0.95) - np.quantile(y, 0.05))
    by_usage = np.argsort(x, kind="stable")
    bins = np.array_split(by_usage, min(_MAX_BINS, n // _BIN_SAMPLES))
    centers = np.array([np.median(x[of_bin]) for of_bin in bins])
    usual = np.interp(x, centers, np.array([np.median(y[of_bin]) for of_bin in bins]))
    errors = np.abs(y - usual)
    far = errors > max(CONTRADICTION_SPREADS * spread, CONTRADICTION_DEVIATIONS * float(np.median(errors)))
    rank_x, rank_y = np.empty(n), np.empty(n)
    rank_x[by_usage] = rank_y[np.argsort(y, kind="stable")] = np.arange(n) / n
    is_spike = _is_spike(usual, errors) | _is_spike(y, errors)
    wrong = known[far & is_spike & (np.abs(rank_x - rank_y) > CONTRADICTION_RANKS)]
    if len(wrong) <= max(MAX_CONTRADICTIONS * n, 1):
        contradicts[wrong] = True
    return contradicts


def _is_spike(values: FloatArray, errors: FloatArray) -> BoolArray:
    """Return which values differ from both neighbours by at least half of the sample's error, shape (samples,).

    `errors` are the differences between the power and the usual power. A meter that lags behind the usage when the
    load changes has errors, too, but no spike.
    """
    steps = np.abs(np.diff(values, prepend=np.inf, append=np.inf))
    is_spike: BoolArray = np.minimum(steps[:-1], steps[1:]) >= 0.5 * errors
    return is_spike


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
    """Return `lower`, extended to all samples of a node if one of the node's two meters is wrong throughout.

    `lower` marks the samples at which `whole` (e.g. the platform) draws less than `part` (e.g. the package), shape
    (samples,). A meter that lags can be the cause for some time after a rise of the load. If more than the
    fraction `MAX_CONTRADICTIONS` of a node's samples have another cause, one of the meters measures something else,
    e.g. only one of several power supplies. The other samples of this meter are then wrong, too.
    """
    if not lower.any():
        return lower
    lower = lower.copy()
    for samples in laid_out.streams():
        time = laid_out.sample_time[samples]
        of_whole, of_part = whole[samples], part[samples]
        n_wrong = sum(not _lag_explains(time, of_whole, of_part, at) for at in np.flatnonzero(lower[samples]).tolist())
        if n_wrong > MAX_CONTRADICTIONS * np.count_nonzero(np.isfinite(of_whole) & np.isfinite(of_part)):
            lower[samples] = True
    return lower


def _lag_explains(time: FloatArray, of_whole: FloatArray, of_part: FloatArray, at: int) -> bool:
    """Return whether the meter of a whole (e.g. the platform) lags behind that of a part (e.g. the package).

    Such a lag would explain that the whole draws less power than the part at the sample `at`.

    A meter that lags, or reports a mean, shows at least the lowest power of the part in the `LAG_SECONDS` before the
    sample. At some time in the `LAG_SECONDS` after the sample, it shows at least the mean power of the part in the
    `MEAN_SECONDS` before the sample. All arrays are of one node, shape (samples,).
    """
    since, since_mean = np.searchsorted(time, (time[at] - LAG_SECONDS, time[at] - MEAN_SECONDS)).tolist()
    until = int(np.searchsorted(time, time[at] + LAG_SECONDS, side="right"))
    earlier, later = of_part[since : at + 1], of_whole[at:until]
    return bool(
        of_whole[at] >= RELATION_TOLERANCE * np.nanmin(earlier)
        and np.nanmax(later) >= RELATION_TOLERANCE * np.nanmean(of_part[since_mean : at + 1])
    )


def _leave_out_where(laid_out: LaidOut, kind: str, key: tuple[str, str], wrong: BoolArray) -> None:
    """Leave out the power of `key` at the samples in the mask `wrong`.

    If these are more than the fraction `WHOLE_SERIES` of a node's samples, leave out all samples of the node.
    """
    watts = laid_out.power[key]
    if not wrong.any():
        return
    dropped = []
    for samples in laid_out.streams():
        known = np.isfinite(watts[samples])
        n_wrong = np.count_nonzero(wrong[samples])
        left_out = known if n_wrong > WHOLE_SERIES * np.count_nonzero(known) else wrong[samples] & known
        dropped.append(samples.start + np.flatnonzero(left_out))
    laid_out.drop_power(kind, key, np.concatenate(dropped))


def leave_out_cpu_time(laid_out: LaidOut, cpus: int | None) -> None:
    """Leave out CPU time that exceeds the node's CPUs, each of which has 1000 ms per second."""
    for name in CPU_TIME_FEATURES:
        if cpus is not None and name in laid_out.node_features:
            limit = cpus * 1000.0 * CPU_TIME_TOLERANCE
            at = np.flatnonzero(laid_out.node_features[name] > limit)
            laid_out.drop_feature("impossible_cpu_time", name, at)


def leave_out_frozen_usage(laid_out: LaidOut) -> None:
    """Leave out usage that is zero in all counters of a node while the node uses energy.

    At such a sample, a node with low power (`IDLE_QUANTILE`) is idle, and its usage is kept. Otherwise the counters
    were not updated. The next interval may then contain the missing usage, so its usage is left out, too. If the usage
    of a node is zero at all samples, none of it is left out.
    """
    usage = [
        name for name in laid_out.node_features if name not in laid_out.gauges and name in laid_out.container_features
    ]
    if not usage:
        return
    values = np.vstack([laid_out.node_features[name] for name in usage])
    known = np.isfinite(values)
    still = known.any(axis=0) & (np.where(known, values, 0.0) == 0).all(axis=0)
    dropped = []
    for samples in laid_out.streams():
        of_stream = still[samples]
        n_known = np.count_nonzero(known[:, samples].any(axis=0))
        if of_stream.any() and np.count_nonzero(of_stream) < n_known:
            powers = [watts[samples] for (_, component), watts in laid_out.power.items() if component in _WHOLE]
            frozen = _without_idle_runs(of_stream, powers)
            after = np.concatenate([[False], frozen[:-1]])
            dropped.append(samples.start + np.flatnonzero(frozen | after))
    if dropped:
        at = np.concatenate(dropped)
        for name in usage:
            laid_out.drop_feature("frozen_usage", name, at[np.isfinite(laid_out.node_features[name][at])])


def _without_idle_runs(still: BoolArray, powers: list[FloatArray]) -> BoolArray:
    """Return the samples without usage, except those at which the node is idle (see `IDLE_QUANTILE`)."""
    frozen = still.copy()
    edges = np.flatnonzero(np.diff(still, prepend=False, append=False))
    for start, end in edges.reshape(-1, 2).tolist():
        is_idle = []
        for watts in powers:
            others = watts[~still & np.isfinite(watts)]
            of_run = watts[start:end][np.isfinite(watts[start:end])]
            if len(others) and len(of_run) and others.min() < others.max():
                is_idle.append(float(of_run.mean()) <= float(np.quantile(others, IDLE_QUANTILE)))
        if is_idle and all(is_idle):
            frozen[start:end] = False
    return frozen
