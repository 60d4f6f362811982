"""The collector `perf`: hardware counters of all CPUs, on machines that have them and allow programs to read them."""

from __future__ import annotations

import contextlib
import errno
import re
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from kepler_core.errors import CollectorError, MeterError
from kepler_core.kernel_files import KernelFile
from kepler_core.metering import Collector, Observation
from kepler_plugins.collectors.perf_events import COUNTERS, CpuCounters, CpuCounts, hardware_events

MAX_CPUS = 1024
"""Maximum number of CPUs. Each CPU needs a file descriptor for each counter."""
SPARE_DESCRIPTORS = 128
"""Number of file descriptors that the collector leaves free for the other parts of the process."""
MIN_RUNNING_FRACTION = 0.01
"""Minimum fraction of a period in which the counters of a CPU must have counted. If the fraction is smaller, the counts
are not extrapolated to the whole period."""
_CPU_RANGE = re.compile(r"([0-9]{1,4})(?:-([0-9]{1,4}))?")


class PerfCollector(Collector):
    """Measures CPU cycles, instructions and cache misses.

    Needs CPUs with hardware counters (a PMU), and the capability CAP_PERFMON or perf_event_paranoid ≤ 0.
    """

    provides: ClassVar[tuple[str, ...]] = tuple(COUNTERS)

    def __init__(self, root: str = "/") -> None:
        """`root` is the folder that contains `proc` and `sys`.

        An example is "/host" in a container, if the machine's folders are mounted below /host.
        """
        self._root = Path(root)
        self._online = KernelFile(self._root, "sys/devices/system/cpu/online")
        self._counters: dict[int, CpuCounters] = {}
        self._numbers: tuple[int, ...] = ()
        self._previous: dict[int, CpuCounts] = {}
        self._read_at: float | None = None

    def open(self) -> None:
        """Open the counters of all CPUs. Raises `CollectorError` with the reason if that is not possible."""
        self.close()
        if _boot_id(self._root) != _boot_id(Path("/")):
            raise CollectorError(f"{self._root} has the files of another machine, but perf counts only on this machine")
        self._follow_cpus()

    def close(self) -> None:
        for counters in self._counters.values():
            counters.close()
        self._online.close()
        self._counters, self._numbers, self._previous, self._read_at = {}, (), {}, None

    def collect(self) -> Observation:
        """Return the counters' increases per second since the previous call, see `Collector.collect`.

        A counter that did not change on any CPU has no value: it does not work on this machine.
        """
        self._follow_cpus()
        counts = {cpu: read for cpu, counters in self._counters.items() if (read := counters.read()) is not None}
        now, previous = time.monotonic(), self._previous
        seconds = 0.0 if self._read_at is None else now - self._read_at
        self._previous, self._read_at = counts, now
        if seconds <= 0:
            return Observation(time.time(), 0.0, {})
        rates, problems = increases(previous, counts, seconds)
        return Observation(time.time(), seconds, rates, problems=tuple(problems))

    def _follow_cpus(self) -> None:
        """Open the counters of CPUs that are new, and close those of CPUs that are gone."""
        try:
            numbers = _cpus(self._online.read())
        except MeterError as error:
            raise CollectorError(str(error)) from error
        if numbers == self._numbers:
            return
        _check_descriptors(len(numbers))
        units = _units_of_cpus(self._root)
        for cpu in [cpu for cpu in self._counters if cpu not in numbers]:
            self._counters.pop(cpu).close()
        for cpu in numbers:
            if cpu not in self._counters:
                try:
                    self._counters[cpu] = _open_cpu(cpu, units.get(cpu))
                except OSError as error:
                    self.close()
                    raise CollectorError(_reason(error, self._root)) from error
        self._numbers = numbers


def increases(
    earlier: Mapping[int, CpuCounts], later: Mapping[int, CpuCounts], seconds: float
) -> tuple[dict[str, float], list[str]]:
    """Return the increase per second of each counter, summed over all CPUs, and the reason for each missing counter.

    Several programs may share the counters of a CPU. Then they count only in a part of the period, and the increase is
    extrapolated to the whole period.
    """
    sums: dict[str, float] = {}
    idle_counters = set()
    for cpu, counts in later.items():
        before = earlier.get(cpu)
        if before is None:
            continue
        enabled, running = counts.enabled - before.enabled, counts.running - before.running
        if enabled <= 0:
            continue
        if running < MIN_RUNNING_FRACTION * enabled:
            idle_counters.add(cpu)
            continue
        for feature, value in counts.values.items():
            step = value - before.values.get(feature, value)
            if step >= 0:
                sums[feature] = sums.get(feature, 0.0) + step * enabled / running
    problems = []
    if idle_counters:
        problems.append(f"other programs used the counters of {len(idle_counters)} CPUs, so no counter has a value")
        return {}, problems
    problems += [f"the counter of {feature} stays 0 on this machine" for feature, total in sums.items() if total == 0]
    return {feature: total / seconds for feature, total in sums.items() if total > 0}, problems


def _open_cpu(cpu: int, pmu: int | None) -> CpuCounters:
    """Open the counters of a CPU. `pmu` is the type of its counter unit; None if all CPUs have the same type.

    If the kernel does not accept a counter unit, it chooses the unit itself.
    """
    if pmu is not None:
        with contextlib.suppress(OSError):
            return CpuCounters(cpu, hardware_events(tuple(COUNTERS), pmu))
    return CpuCounters(cpu, hardware_events(tuple(COUNTERS), None))


def _reason(error: OSError, root: Path) -> str:
    """Return why the counters cannot be opened, and what would help."""
    if error.errno in (errno.EACCES, errno.EPERM):
        level = _text(root / "proc/sys/kernel/perf_event_paranoid")
        return (
            f"hardware counters are not allowed (perf_event_paranoid is {level or 'not known'}): grant CAP_PERFMON, or "
            "set kernel.perf_event_paranoid to 0"
        )
    if error.errno in (errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL):
        return "this machine has no hardware counters, which is usual in virtual machines"
    if error.errno == errno.ENOSYS:
        return "the kernel or the sandbox does not have perf_event_open"
    return f"perf_event_open: {error.strerror or error}"


def _check_descriptors(cpus: int) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    needed = cpus * len(COUNTERS) + SPARE_DESCRIPTORS
    if cpus > MAX_CPUS:
        raise CollectorError(f"{cpus} CPUs; at most {MAX_CPUS} are supported")
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise CollectorError(
            f"{cpus} CPUs need {needed} file descriptors, and the limit is {limit}; raise it with `ulimit -n {needed}` "
            f"or LimitNOFILE={needed}"
        )


def _units_of_cpus(root: Path) -> dict[int, int]:
    """Return the type of each CPU's counter unit (PMU), by CPU; {} if all CPUs of the machine have the same unit."""
    units: list[tuple[int, tuple[int, ...]]] = []
    for folder in sorted((root / "sys/bus/event_source/devices").glob("*")):
        # Only the counter units of cores have a file cpus. Those of caches and memory controllers have a file cpumask.
        kind, cpus = _text(folder / "type"), _text(folder / "cpus")
        if kind.isdigit() and cpus:
            with contextlib.suppress(CollectorError):
                units.append((int(kind), _cpus(cpus.encode())))
    return {cpu: kind for kind, cpus in units for cpu in cpus} if len(units) > 1 else {}


def _cpus(content: bytes) -> tuple[int, ...]:
    """Return the numbers in a list of CPUs such as "0-3,8". Raises `CollectorError` if the text is not a list."""
    numbers: set[int] = set()
    for part in content.decode(errors="replace").strip().split(","):
        bounds = _CPU_RANGE.fullmatch(part)
        if bounds is None:
            raise CollectorError(f"/sys/devices/system/cpu/online: {part[:40]!r} is no list of CPUs")
        numbers.update(range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1))
    return tuple(sorted(numbers))


def _boot_id(root: Path) -> str:
    return _text(root / "proc/sys/kernel/random/boot_id")


def _text(path: Path) -> str:
    try:
        return path.read_bytes()[:4096].decode(errors="replace").strip()
    except OSError:
        return ""
