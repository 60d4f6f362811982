"""The CPU time of a machine by mode, from /proc/stat."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kepler_core.errors import CollectorError
from kepler_core.kernel_files import unsigned

MODES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal", "guest", "guest_nice")
"""Modes of CPU time, in the order of the columns of /proc/stat. The time in mode user contains the time in mode guest,
and the time in mode nice contains the time in mode guest_nice."""
_REQUIRED_MODES = 4
_GUEST, _GUEST_NICE = MODES.index("guest"), MODES.index("guest_nice")
MAX_CPUS = 8192
_MAX_TICKS = 2**63

FALL_TOLERANCE_SECONDS = 1.0
"""A counter of the kernel may fall a little: the kernel corrects idle and iowait of a CPU afterwards, and steal falls
when a virtual machine moves to another host. A fall of at most this number of seconds counts as 0. A larger fall means
that the counters of the CPU have started again at 0. The CPU is then left out of the period."""
_EXCESS_FACTOR = 1.5
_EXCESS_SECONDS = 0.5
# A CPU is left out of a period if its time exceeds _EXCESS_FACTOR times the period plus _EXCESS_SECONDS. A CPU cannot
# spend more time than has passed, but the kernel may count ticks some hundredths of a second late.


@attrs.frozen
class CpuTimes:
    """The counters of /proc/stat at one moment."""

    cpus: Mapping[int, tuple[int, ...]]
    """Ticks by mode, in the order of `MODES`, for each logical CPU that is online. The key is the number of the CPU. If
    the kernel does not list single CPUs, the key −1 stands for all CPUs together."""
    context_switches: int | None = None
    interrupts: int | None = None

    def counters(self) -> dict[tuple[str, str], int]:
        """Return the counters other than CPU time, in the form of `kernel_counters.Counters`."""
        values = {"context_switches": self.context_switches, "interrupts": self.interrupts}
        return {(feature, ""): value for feature, value in values.items() if value is not None}


@attrs.frozen
class CpuUsage:
    """The CPU time that passed between two moments, summed over all CPUs that were online at both."""

    seconds: Mapping[str, float]
    """Seconds of CPU time by mode."""
    cpus: int
    """Number of CPUs whose time is in the sum."""
    longest: float
    """The largest time of a single CPU in all modes together, in seconds. It is close to the length of the period,
    unless the virtual machine was paused during the period."""
    left_out: int
    """Number of CPUs that are not in the sum, because their counters started again at 0."""

    @property
    def user(self) -> float:
        """Seconds in the modes user and nice, without guests."""
        return max(self.seconds["user"] + self.seconds["nice"] - self.guest, 0.0)

    @property
    def guest(self) -> float:
        """Seconds in which virtual machines on this machine ran."""
        return self.seconds["guest"] + self.seconds["guest_nice"]

    @property
    def system(self) -> float:
        """Seconds of CPU time that the kernel used, including interrupts."""
        return self.seconds["system"] + self.seconds["irq"] + self.seconds["softirq"]

    @property
    def busy(self) -> float:
        """Seconds in which the CPUs worked."""
        return self.user + self.guest + self.system

    @property
    def total(self) -> float:
        """Seconds of CPU time in all modes together."""
        return self.busy + self.seconds["idle"] + self.seconds["iowait"] + self.seconds["steal"]


def parse_stat(content: bytes) -> CpuTimes:
    """Return the counters in /proc/stat. Malformed lines are skipped.

    Raises `CollectorError` if no valid line has the time of a CPU, or if all times are 0.
    """
    total: tuple[int, ...] | None = None
    cpus: dict[int, tuple[int, ...]] = {}
    switches = interrupts = None
    for line in content.splitlines():
        name, _, rest = line.partition(b" ")
        if name.startswith(b"cpu"):
            ticks = _ticks(rest)
            if ticks is None:
                continue
            if name == b"cpu":
                total = ticks
            elif name[3:].isdigit() and len(name) < 10 and len(cpus) < MAX_CPUS:
                cpus[int(name[3:])] = ticks
        elif name == b"ctxt":
            switches = unsigned(rest)
        elif name == b"intr":
            # The first number of the line is the total. The others, up to many thousand, count one interrupt each.
            interrupts = unsigned(rest.strip().partition(b" ")[0])
    if not cpus:
        if total is None:
            raise CollectorError("/proc/stat lists no CPU; the file may be hidden in this container")
        cpus = {-1: total}
    if not any(map(any, cpus.values())):
        raise CollectorError("/proc/stat has 0 everywhere: this kernel or sandbox does not measure CPU time")
    return CpuTimes(cpus, switches, interrupts)


def usage_between(earlier: CpuTimes, later: CpuTimes, seconds: float, ticks_per_second: float) -> CpuUsage:
    """Return the CPU time that passed between two moments that are `seconds` apart.

    The function adds up the increases of the single CPUs, because the total of all CPUs falls when a CPU goes offline.
    A CPU that was offline at the earlier moment is left out.
    """
    sums = dict.fromkeys(MODES, 0)
    counted = left_out = 0
    longest = 0
    tolerance = FALL_TOLERANCE_SECONDS * ticks_per_second
    most = (_EXCESS_FACTOR * seconds + _EXCESS_SECONDS) * ticks_per_second
    if -1 in later.cpus:
        most *= MAX_CPUS  # the key −1 stands for all CPUs, and their number is not known
    for number, ticks in later.cpus.items():
        before = earlier.cpus.get(number)
        if before is None:
            continue
        steps = [new - old for new, old in zip(ticks, before, strict=True)]
        passed = sum(max(step, 0) for step in steps[:_GUEST])
        if min(steps) < -tolerance or passed > most:
            left_out += 1
            continue
        counted += 1
        longest = max(longest, passed)
        for mode, step in zip(MODES, steps, strict=True):
            sums[mode] += max(step, 0)
    # The time of guests is part of the mode user. The kernel updates the two counters at different moments, so the time
    # of guests may seem longer than the time in mode user.
    sums["guest"] = min(sums["guest"], sums["user"])
    sums["guest_nice"] = min(sums["guest_nice"], sums["nice"])
    return CpuUsage(
        {mode: value / ticks_per_second for mode, value in sums.items()}, counted, longest / ticks_per_second, left_out
    )


def _ticks(rest: bytes) -> tuple[int, ...] | None:
    """Return the ticks in a row of /proc/stat, by mode. Modes that an old kernel does not have are 0."""
    fields = rest.split()[: len(MODES)]
    if len(fields) < _REQUIRED_MODES:
        return None
    ticks = [unsigned(field) for field in fields]
    if any(value is None or value > _MAX_TICKS for value in ticks):
        return None
    values = [value for value in ticks if value is not None]
    return (*values, *([0] * (len(MODES) - len(values))))
