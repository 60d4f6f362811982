"""Faults of exporters, meters and Prometheus servers, for simulated recordings.

Each fault was seen in real recordings. A function of this module imitates the fault: it changes the series of one
simulated node. The first line of the function's docstring is the fault's help text; the lines after it say what
the severities 1, 2 and 3 mean. No fault changes the power that the simulated machine really draws, so the formula
of the simulation still gives the true power.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import UsageError, close_matches
from kepler_core.simulated_counter import Counter, busiest, replaced, scrapes_of

SEVERITIES = (1, 2, 3)
Change = Callable[[list[Counter], int, np.random.Generator], list[Counter]]

STEPS = {1: (5, 3), 2: (15, 4), 3: (7, 3)}
"""Maps each severity of the fault `step-not-dividing` to the seconds between two scrapes and the step in seconds."""
_CPU_METRICS = ("kepler_container_bpf_cpu_time_ms_total", "kepler_container_cpu_cycles_total")
_PLATFORM = "kepler_node_platform_joules_total"
_PACKAGE = "kepler_node_package_joules_total"
_INVALID = float(2**32 - 1)


@attrs.frozen
class Fault:
    """A kind of fault."""

    name: str
    change: Change

    @property
    def summary(self) -> str:
        """The first line of the fault's description."""
        return (self.change.__doc__ or "").split("\n", 1)[0]


FAULTS: dict[str, Fault] = {}
"""Maps the name of each fault to the fault, in the order of the documentation."""


def _fault(change: Change) -> Change:
    name = change.__name__.strip("_").replace("_", "-")
    FAULTS[name] = Fault(name, change)
    return change


def check_faults(names: Iterable[str], severity: int) -> None:
    """Raise `UsageError` if a name is not the name of a fault, or if the severity is not 1, 2 or 3."""
    for name in names:
        if name not in FAULTS:
            raise UsageError(f"unknown fault {name!r}; {close_matches(name, FAULTS)}")
    if severity not in SEVERITIES:
        raise UsageError(f"severity must be 1, 2 or 3, not {severity}")


def scrape_seconds(names: Iterable[str], severity: int, step: int) -> int:
    """Return the seconds between two scrapes. The fault `step-not-dividing` replaces `step` by a value in `STEPS`."""
    return STEPS[severity][0] if "step-not-dividing" in names else step


def with_faults(series: list[Counter], names: Sequence[str], severity: int, seed: int) -> list[Counter]:
    """Apply faults to the series of one node, in the order of their `names`. Return the changed series."""
    for name in names:
        rng = np.random.default_rng([seed, list(FAULTS).index(name), severity])
        series = FAULTS[name].change(series, severity, rng)
    return series


def _some_time(series: list[Counter], rng: np.random.Generator, length: int = 1) -> tuple[int, int]:
    """Choose `length` successive scrapes in the middle of the recording. Return the times of the first and the last."""
    scrapes = scrapes_of(series)
    n = len(scrapes)
    first = int(rng.integers(max(n // 5, 1), max(n - n // 5 - length, n // 5 + 2)))
    return int(scrapes[min(first, n - 1)]), int(scrapes[min(first + length - 1, n - 1)])


def _length(series: list[Counter], severity: int) -> int:
    """Return for how many scrapes a counter stands still: 3, 20 or a third of all scrapes for severity 1, 2 or 3."""
    return {1: 3, 2: 20, 3: len(scrapes_of(series)) // 3}[severity]


def _freeze_usage(series: list[Counter], severity: int, rng: np.random.Generator, catches_up: bool) -> list[Counter]:
    first, last = _some_time(series, rng, _length(series, severity))
    return replaced(series, lambda one: one.is_usage, lambda one: one.frozen(first, last, catches_up))


def _freeze_meter(series: list[Counter], severity: int, rng: np.random.Generator, catches_up: bool) -> list[Counter]:
    first, last = _some_time(series, rng, _length(series, severity))
    source = ("acpi", "rapl-sysfs")[int(rng.integers(2))]
    return replaced(
        series, lambda one: one.labels.get("source") == source, lambda one: one.frozen(first, last, catches_up)
    )


@_fault
def _energy_counter_jump(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """A wrap of a CPU package's energy register is counted twice, so that the counter jumps once.

    The size of the jump is about the range of a 32-bit register. It depends on the energy unit of the register.
    Severities: 4,295 J (unit of 1 µJ); 65,532 J (unit of 2^-16 J); 262,143 J (unit of 2^-14 J).
    """
    joules = {1: 4_294.967, 2: 65_532.6, 3: 262_143.3}[severity]
    at, _ = _some_time(series, rng)
    labels = next(one.labels for one in series if one.metric == _PACKAGE and one.labels["mode"] == "dynamic")

    def jump(one: Counter) -> Counter:
        return one.with_increases(one.increases + np.where(one.times == at, joules, 0.0))

    return replaced(series, lambda one: one.metric == _PACKAGE and one.labels == labels, jump)


@_fault
def _usage_counter_jump(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The counter of CPU time or of CPU cycles of one container jumps once.

    Severities, in the counter's unit: ten times the mean increase per minute of all containers together; 2^32; 2^64.
    """
    metric = _CPU_METRICS[int(rng.integers(len(_CPU_METRICS)))]
    target = busiest(series, metric)
    at = int(target.times[len(target.times) // 5 + int(rng.integers(max(len(target.times) // 2, 1)))])
    whole = sum(float(one.increases[1:].sum()) for one in series if one.metric == metric)
    seconds = float(target.times[-1] - target.times[0]) or 1.0
    jump = {1: 10 * 60 * whole / seconds, 2: 2.0**32, 3: 2.0**64}[severity]

    def jumped(one: Counter) -> Counter:
        return one.with_increases(one.increases + np.where(one.times == at, jump, 0.0))

    return replaced(series, lambda one: one is target, jumped)


@_fault
def _invalid_reading(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The platform's meter does not answer, and its driver returns 0xFFFFFFFF.

    Severities: one sample of the counter has this value; ten samples have it; the exporter reads the value as
    microwatts and adds 4,294.967295 W to the counter in three intervals.
    """
    scrapes = scrapes_of(series)
    wrong = rng.choice(scrapes[1:], size=min({1: 1, 2: 10, 3: 3}[severity], len(scrapes) - 1), replace=False)

    def invalid(one: Counter) -> Counter:
        is_wrong = np.isin(one.times, wrong)
        if severity < 3:
            return attrs.evolve(one, values=np.where(is_wrong, _INVALID, one.values))
        seconds = np.diff(one.times, prepend=one.times[:1])
        return one.with_increases(np.where(is_wrong, _INVALID / 1e6 * seconds, one.increases))

    return replaced(series, lambda one: one.metric == _PLATFORM and one.labels["mode"] == "dynamic", invalid)


@_fault
def _wrong_unit(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """Energy counters count another unit, although their names say joules.

    Severities: the CPU packages count millijoules; the CPU packages count microjoules; all meters count microjoules.
    """
    factor = 1e3 if severity == 1 else 1e6
    return replaced(
        series,
        lambda one: one.is_energy if severity == 3 else one.metric == _PACKAGE,
        lambda one: attrs.evolve(one, values=one.values * factor),
    )


@_fault
def _stuck_socket(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The energy counters of one socket stand still, while those of the other sockets move.

    Severities: the counters of the CPU package never move; no counter of the socket ever moves; all counters of the
    socket stand still from some time on. A node with only one socket cannot have this fault.
    """
    sockets = sorted({one.labels["package"] for one in series if "package" in one.labels})
    if len(sockets) < 2:
        return series
    socket = sockets[int(rng.integers(len(sockets)))]
    since = _some_time(series, rng)[0] if severity == 3 else 0

    def stuck(one: Counter) -> Counter:
        still = one.times >= max(since, int(one.times[0]) + 1)
        return one.with_increases(np.where(still, 0.0, one.increases), np.zeros(len(one.times), dtype=bool))

    return replaced(
        series,
        lambda one: one.labels.get("package") == socket and (severity > 1 or one.metric == _PACKAGE),
        stuck,
    )


@_fault
def _platform_below_package(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The platform's meter measures one of several power supplies, so that it shows less power than the CPU package.

    Severities: the machine has 3, 4 or 6 power supplies.
    """
    supplies = {1: 3, 2: 4, 3: 6}[severity]
    return replaced(
        series,
        lambda one: one.metric == _PLATFORM,
        lambda one: one.with_increases(one.increases / supplies),
    )


@_fault
def _usage_frozen(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The usage counters of all containers stand still for some time, then they catch up.

    Severities: the counters stand still for 3 samples, for 20 samples, or for a third of the recording.
    """
    return _freeze_usage(series, severity, rng, catches_up=True)


@_fault
def _usage_frozen_loses(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The usage counters of all containers stand still for some time, and the usage of that time is lost.

    Severities: the counters stand still for 3 samples, for 20 samples, or for a third of the recording.
    """
    return _freeze_usage(series, severity, rng, catches_up=False)


@_fault
def _meter_frozen(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """All counters of one meter (RAPL or ACPI) stand still for some time, then they catch up.

    Severities: the counters stand still for 3 samples, for 20 samples, or for a third of the recording.
    """
    return _freeze_meter(series, severity, rng, catches_up=True)


@_fault
def _meter_frozen_loses(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """All counters of one meter (RAPL or ACPI) stand still for some time, and the energy of that time is lost.

    Severities: the counters stand still for 3 samples, for 20 samples, or for a third of the recording.
    """
    return _freeze_meter(series, severity, rng, catches_up=False)


@_fault
def _meter_renewed_seldom(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The platform's meter has a new reading only at some scrapes. At all other scrapes, its counter stands still.

    Severities: a new reading at every 3rd, 10th or 20th scrape.
    """
    every = {1: 3, 2: 10, 3: 20}[severity]
    offset = int(rng.integers(every))

    def seldom(one: Counter) -> Counter:
        index = np.arange(len(one.times))
        window = (index + offset) // every
        renewed = np.diff(window, prepend=-1) > 0
        increases = np.zeros(len(index))
        pending = 0.0
        for at in index:
            pending += one.increases[at]
            if renewed[at]:
                increases[at], pending = pending, 0.0
        return one.with_increases(increases, np.zeros(len(index), dtype=bool))

    return replaced(series, lambda one: one.metric == _PLATFORM, seldom)


@_fault
def _step_not_dividing(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The step of the query does not divide the scrape interval, so that values appear late. --step has no effect.

    Severities: scrape interval 5 s, step 3 s; scrape interval 15 s, step 4 s; scrape interval 7 s, step 3 s.
    """
    scrape, step = STEPS[severity]
    scrapes = scrapes_of(series)
    late = float(rng.uniform(0, step))
    queries = np.arange(int(scrapes[0]), int(scrapes[-1]) + scrape, step)
    at = np.floor((queries - scrapes[0] - late) / scrape).astype(np.int64)
    queries, seen = queries[at >= 0], scrapes[0] + scrape * at[at >= 0]

    def queried(one: Counter) -> Counter:
        index = np.minimum(np.searchsorted(one.times, seen), len(one.times) - 1)
        exists = one.times[index] == seen
        return attrs.evolve(one, times=queries[exists], values=one.values[index[exists]])

    return [one for one in map(queried, series) if len(one.times)]


@_fault
def _short_lived_containers(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """Part of the work is done by containers that exist at only one scrape.

    Severities: 10 %, 25 % and 40 % of the work.
    """
    part = {1: 0.1, 2: 0.25, 3: 0.4}[severity]
    scrapes = scrapes_of(series)
    taken: dict[str, FloatArray] = {}
    example: dict[str, Counter] = {}
    changed = []
    for one in series:
        if one.is_usage:
            moved = np.where(one.times > scrapes[0], part * one.increases, 0.0)
            total = taken.setdefault(one.metric, np.zeros(len(scrapes)))
            total[np.searchsorted(scrapes, one.times)] += moved
            example.setdefault(one.metric, one)
            one = one.with_increases(one.increases - moved)
        changed.append(one)
    for metric, total in taken.items():
        like = example[metric]
        for at in range(1, len(scrapes)):
            name = f"job-{at}"
            labels = {
                **like.labels,
                "container_id": f"{like.labels['instance']}-job-{at:056x}",
                "pod_name": name,
                "container_name": name,
            }
            changed.append(Counter(metric, labels, scrapes[at : at + 1], total[at : at + 1], like.decimals))
    return changed


@_fault
def _negative_counter(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """A counter has negative values.

    Severities: one sample of a container's CPU time is negative; all CPU time of a container is negative; the
    energy of a CPU package is negative.
    """
    target = busiest(series, _CPU_METRICS[0])
    at, _ = _some_time(series, rng)
    if severity == 3:
        return replaced(
            series, lambda one: one.metric == _PACKAGE, lambda one: attrs.evolve(one, values=-one.values - 1)
        )

    def negative(one: Counter) -> Counter:
        return attrs.evolve(one, values=np.where((one.times == at) | (severity == 2), -one.values - 1, one.values))

    return replaced(series, lambda one: one is target, negative)


@_fault
def _exporter_restart(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """The exporter restarts, and all counters begin at 0 again.

    Severities: 1, 5 and 20 restarts.
    """
    scrapes = scrapes_of(series)
    at = rng.choice(scrapes[1:], size=min({1: 1, 2: 5, 3: 20}[severity], len(scrapes) - 1), replace=False)
    return replaced(
        series,
        lambda one: one.is_counter,
        lambda one: one.with_increases(one.increases, one.resets | np.isin(one.times, at)),
    )


@_fault
def _gaps(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """Scrapes of the node fail.

    Severities: 10 successive scrapes fail; 10 successive scrapes fail at five times; each scrape fails with a
    probability of 30 %.
    """
    scrapes = scrapes_of(series)
    n = len(scrapes)
    failed = rng.random(n) < 0.3 if severity == 3 else np.zeros(n, dtype=bool)
    for start in rng.integers(1, max(n - 10, 2), {1: 1, 2: 5, 3: 0}[severity]).tolist():
        failed[start : start + 10] = True
    failed[[0, -1]] = False
    kept = (one.only(~np.isin(one.times, scrapes[failed])) for one in series)
    return [one for one in kept if len(one.times)]


@_fault
def _duplicate_exporter(series: list[Counter], severity: int, rng: np.random.Generator) -> list[Counter]:
    """A second exporter reports the same node, with counters that began at another time.

    Severities: the second exporter runs for a tenth of the recording, for half of it, or all the time.
    """
    scrapes = scrapes_of(series)
    n = len(scrapes)
    length = {1: max(n // 10, 2), 2: max(n // 2, 2), 3: n}[severity]
    first = int(rng.integers(0, n - length + 1))
    times = scrapes[first : first + length]
    second = []
    for one in series:
        part = one.only(np.isin(one.times, times))
        if not len(part.times):
            continue
        part = attrs.evolve(part, labels={**part.labels, "job": "kepler-second"})
        if part.is_counter:
            increases = part.increases
            increases[0] *= 0.5
            part = part.with_increases(increases)
        second.append(part)
    return series + second
