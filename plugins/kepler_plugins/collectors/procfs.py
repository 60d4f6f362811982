"""The collector `procfs`: features of a machine that the Linux kernel reports in /proc and /sys to every user."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import attrs

from kepler_core.errors import CollectorError, MeterError
from kepler_core.kernel_files import KernelFile, files_mounted_over
from kepler_core.metering import Collector, Observation
from kepler_core.vocabulary import HOST_FEATURES
from kepler_plugins.collectors.cpu_times import CpuTimes, CpuUsage, parse_stat, usage_between
from kepler_plugins.collectors.kernel_counters import (
    Counters,
    is_name_of_whole_disk,
    mean_frequency_hertz,
    memory_used_bytes,
    parse_diskstats,
    parse_interfaces,
    parse_softirqs,
    parse_vmstat,
    rates,
)

MIN_PERIOD_SECONDS = 0.05
"""Shortest period. The kernel counts CPU time in ticks of 10 ms, so shorter periods would be too inexact."""
MAX_PERIOD_SECONDS = 3600.0
"""Longest period. The mean over a longer period says nothing about the power at the period's end."""
SUSPENDED_SECONDS = 0.5
"""If the machine was suspended for at least this time, the period is left out."""
STOOD_STILL_FRACTION = 0.5
"""The virtual machine stood still (was paused) in a period if every CPU's time in all modes together, idle included, is
below this fraction of the period."""
MAX_FREQUENCY_FILES = 32
"""Maximum number of CPUs whose clock frequency is read, because reading can wake an idle CPU. If there are more
CPUs, only some of them, at equal distances, are read."""

_CPU_FEATURES = ("bpf_cpu_time_ms", *(name for name in HOST_FEATURES if name.startswith("cpu_")))
_PARSERS: dict[str, tuple[Callable[[bytes], Counters], tuple[str, ...]]] = {
    "proc/vmstat": (parse_vmstat, ("page_faults",)),
    "proc/softirqs": (parse_softirqs, ("bpf_block_irq", "bpf_net_rx_irq", "bpf_net_tx_irq")),
}
"""For each file with counters, its parser and the names of the features in it. The key is the path of the file."""
_NETWORK = "proc/net/dev"
_NETWORK_OF_PROCESS_1 = "proc/1/net/dev"


@attrs.frozen
class Clocks:
    """The clocks of the machine at one moment, in seconds."""

    unix: float
    monotonic: float
    """CLOCK_MONOTONIC, which stands still while the machine is suspended."""
    boot: float
    """CLOCK_BOOTTIME, which also runs while the machine is suspended."""


def read_clocks() -> Clocks:
    """Return the clocks of this machine."""
    return Clocks(time.time(), time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_BOOTTIME))


@attrs.frozen
class _Sample:
    """The values that the collector read at one moment. `times` is None if /proc/stat could not be read."""

    clocks: Clocks
    times: CpuTimes | None
    counters: Counters


class ProcfsCollector(Collector):
    """Measures CPU time by mode, memory, disks, networks, interrupts and the clock. Needs no privileges."""

    provides: ClassVar[tuple[str, ...]] = (
        "bpf_cpu_time_ms",
        *HOST_FEATURES,
        "bpf_block_irq",
        "bpf_net_rx_irq",
        "bpf_net_tx_irq",
        "cpu_scaling_frequency_hertz",
    )
    clocks: ClassVar[Callable[[], Clocks]] = staticmethod(read_clocks)

    def __init__(self, root: str = "/") -> None:
        """`root` is the folder that contains `proc` and `sys`.

        An example is "/host" in a container, if the machine's folders are mounted below /host.
        """
        self._root = Path(root)
        self._ticks_per_second = float(os.sysconf("SC_CLK_TCK"))
        self._files: dict[str, KernelFile] = {}
        self._not_the_machine: dict[str, str] = {}
        self._clock_files: list[KernelFile] = []
        self._known_cpus: frozenset[int] = frozenset()
        self._network = _NETWORK
        self._whole_disks: dict[str, bool] = {}
        self._previous: _Sample | None = None

    def open(self) -> None:
        """Open the files that the collector reads. Raises `CollectorError` if /proc cannot be read."""
        self.close()
        for point, kind in files_mounted_over(self._root).items():
            self._not_the_machine[point.removeprefix("/")] = (
                f"{point} is a {kind} file of this container, not the machine's"
            )
        # In a container, /proc/net has the network of the container. But the machine's /proc may be mounted in another
        # folder. Process 1 in that folder is process 1 of the machine, and its files show the machine's network.
        is_mounted = self._root != Path("/") and (self._root / _NETWORK_OF_PROCESS_1).exists()
        self._network = _NETWORK_OF_PROCESS_1 if is_mounted else _NETWORK
        if not is_mounted and (reason := _container_network(self._root)):
            self._not_the_machine.setdefault(_NETWORK, reason)
        if not (self._root / "proc/stat").exists() and not (self._root / "proc/meminfo").exists():
            raise CollectorError(f"{self._root / 'proc'} has neither stat nor meminfo: /proc is not mounted there")

    def close(self) -> None:
        for file in (*self._files.values(), *self._clock_files):
            file.close()
        self._files, self._clock_files = {}, []
        self._not_the_machine, self._known_cpus, self._previous = {}, frozenset(), None

    def collect(self) -> Observation:
        """Return the features of the period since the previous call, see `Collector.collect`.

        The observation has no features if the period was too short or too long, or if the machine was suspended or
        stood still during the period. Raises `CollectorError` if none of the files can be read.
        """
        clocks = type(self).clocks()
        previous = self._previous
        if previous is not None and clocks.monotonic - previous.clocks.monotonic < MIN_PERIOD_SECONDS:
            seconds = max(clocks.monotonic - previous.clocks.monotonic, 0.0)
            why = f"the period of {seconds:.3f} s is shorter than {MIN_PERIOD_SECONDS} s"
            return Observation(clocks.unix, seconds, {}, problems=(why,))
        problems: list[str] = []
        times = self._times(problems)
        counters = self._counters(problems) | (times.counters() if times is not None else {})
        sample = _Sample(clocks, times, counters)
        gauges = self._gauges(times, problems)
        self._previous = sample
        if times is None and not counters and not gauges:
            raise CollectorError("; ".join(problems) or "/proc has no values")
        if previous is None:
            return Observation(clocks.unix, 0.0, {}, problems=tuple(problems))
        return self._observation(previous, sample, gauges, problems)

    def _observation(
        self, earlier: _Sample, later: _Sample, gauges: Mapping[str, float], problems: list[str]
    ) -> Observation:
        seconds = later.clocks.monotonic - earlier.clocks.monotonic
        usage = None
        if earlier.times is not None and later.times is not None:
            usage = usage_between(earlier.times, later.times, seconds, self._ticks_per_second)
        if why := _why_left_out(earlier.clocks, later.clocks, usage):
            return Observation(later.clocks.unix, seconds, {}, problems=(why, *problems))
        increases, fallen = rates(earlier.counters, later.counters, seconds)
        problems += [f"{feature}: the counter has started again" for feature in sorted(fallen)]
        features = {**increases, **gauges}
        load = steal = None
        if usage is not None:
            if usage.left_out:
                problems.append(f"the counters of {usage.left_out} CPUs in /proc/stat have started again")
            if usage.total > 0:
                load, steal = usage.busy / usage.total, usage.seconds["steal"] / usage.total
                features |= _cpu_features(usage, seconds)
        return Observation(later.clocks.unix, seconds, features, load, steal, tuple(problems))

    # --- reading ---

    def _read(self, name: str, problems: list[str]) -> bytes | None:
        if (reason := self._not_the_machine.get(name)) is not None:
            problems.append(reason)
            return None
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = KernelFile(self._root, name)
        try:
            content = file.read()
        except MeterError as error:
            problems.append(str(error))
            return None
        if not content:
            problems.append(f"{file.name} is empty: it is hidden in this container")
            return None
        return content

    def _times(self, problems: list[str]) -> CpuTimes | None:
        content = self._read("proc/stat", problems)
        try:
            return None if content is None else parse_stat(content)
        except MeterError as error:
            problems.append(str(error))
            return None

    def _counters(self, problems: list[str]) -> Counters:
        counters: Counters = {}
        for name, (parse, features) in _PARSERS.items():
            content = self._read(name, problems)
            parsed = {} if content is None else parse(content)
            if content is not None and not parsed:
                problems.append(f"/{name} has no {features[0]}")
            counters |= parsed
        if (content := self._read(self._network, problems)) is not None:
            counters |= parse_interfaces(content)
        if (content := self._read("proc/diskstats", problems)) is not None:
            counters |= parse_diskstats(content, self._is_whole_disk)
        return counters

    def _gauges(self, times: CpuTimes | None, problems: list[str]) -> dict[str, float]:
        gauges: dict[str, float] = {}
        if (content := self._read("proc/meminfo", problems)) is not None:
            used = memory_used_bytes(content)
            if used is None:
                problems.append("/proc/meminfo has no MemTotal and MemAvailable")
            else:
                gauges["memory_used_bytes"] = used
        if times is not None and (numbers := frozenset(times.cpus)) != self._known_cpus:
            self._known_cpus = numbers
            self._open_clock_files(numbers)
        contents = []
        for file in self._clock_files:
            try:
                contents.append(file.read())
            except MeterError:
                continue  # The CPU went offline, or the machine has no cpufreq. Virtual machines usually have none.
        if (hertz := mean_frequency_hertz(contents)) is not None:
            gauges["cpu_scaling_frequency_hertz"] = hertz
        return gauges

    def _open_clock_files(self, numbers: frozenset[int]) -> None:
        for file in self._clock_files:
            file.close()
        ordered = sorted(number for number in numbers if number >= 0)
        step = max(-(-len(ordered) // MAX_FREQUENCY_FILES), 1)
        names = [f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq" for number in ordered[::step]]
        self._clock_files = [KernelFile(self._root, name) for name in names if (self._root / name).exists()]

    def _is_whole_disk(self, name: str) -> bool:
        known = self._whole_disks.get(name)
        if known is None:
            blocks = self._root / "sys/block"
            # In /sys/block, the kernel replaces a slash in the name of a device by an exclamation mark.
            known = (blocks / name.replace("/", "!")).exists() if blocks.exists() else is_name_of_whole_disk(name)
            self._whole_disks[name] = known
        return known


def _cpu_features(usage: CpuUsage, seconds: float) -> dict[str, float]:
    """Return the features that count CPU time, in milliseconds per second."""
    values = (
        usage.busy,
        usage.user,
        usage.system,
        usage.seconds["idle"],
        usage.seconds["iowait"],
        usage.seconds["steal"],
        usage.guest,
    )
    return {feature: 1000.0 * value / seconds for feature, value in zip(_CPU_FEATURES, values, strict=True)}


def _why_left_out(earlier: Clocks, later: Clocks, usage: CpuUsage | None) -> str:
    """Return why the features of a period cannot be measured; "" if they can."""
    seconds = later.monotonic - earlier.monotonic
    suspended = (later.boot - earlier.boot) - seconds
    if suspended >= SUSPENDED_SECONDS:
        return f"the machine was suspended for {suspended:.1f} s"
    if seconds > MAX_PERIOD_SECONDS:
        return f"the period of {seconds:.0f} s is longer than {MAX_PERIOD_SECONDS:.0f} s"
    if usage is None or not usage.cpus or usage.longest == 0:
        return ""
    missing = seconds - usage.longest
    if usage.longest < STOOD_STILL_FRACTION * seconds and missing >= SUSPENDED_SECONDS:
        return f"the machine stood still for about {missing:.1f} s (it was paused or moved to another host)"
    return ""


def _container_network(root: Path) -> str:
    """Return why /proc/net/dev has only the interfaces of a container; "" if it has the interfaces of the machine.

    The interfaces of a machine belong to a device or, in a virtual machine, to a virtual device. The interfaces in a
    container's own network namespace belong to no device.
    """
    interfaces = root / "sys/class/net"
    try:
        names = [entry.name for entry in interfaces.iterdir() if entry.name != "lo"]
    except OSError:
        return ""
    if any((interfaces / name / "device").exists() for name in names):
        return ""
    return "/proc/net/dev has only the interfaces of this container, not the machine's"
