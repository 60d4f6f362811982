"""A folder that looks like /proc and /sys of a machine, and a clock that tests can move."""

from __future__ import annotations

import os
from pathlib import Path

from kepler_plugins.collectors.cpu_times import MODES
from kepler_plugins.collectors.procfs import Clocks, ProcfsCollector

TICKS = 100
XEON = "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"


def write(path: Path, text: str | int) -> None:
    """Write a file in place, as the kernel does: readers of an open file see the new content, never an empty file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = f"{text}\n".encode() if not str(text).endswith("\n") else str(text).encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, content, 0)
        if os.fstat(descriptor).st_size > len(content):
            os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


class SyntheticMachine:
    """A machine with files that tests can write. `run` moves the clock and the counters."""

    def __init__(
        self, root: Path, *, cpus: int = 4, model: str = XEON, virtual: bool = False, sockets: int = 1
    ) -> None:
        self.root = root
        self.now = 1000.0
        self.suspended = 0.0
        self.switches = 0
        self.ticks = {number: dict.fromkeys(MODES, 10_000) for number in range(cpus)}
        flags = "fpu hypervisor" if virtual else "fpu"
        vendor = "AuthenticAMD" if "AMD" in model else "GenuineIntel"
        blocks = [
            f"processor\t: {number}\nvendor_id\t: {vendor}\nmodel name\t: {model}\ncpu family\t: 6\nmodel\t\t: 85\n"
            f"stepping\t: 7\nphysical id\t: {number * sockets // cpus}\nflags\t\t: {flags}\n"
            for number in range(cpus)
        ]
        self.file("proc/cpuinfo", "\n".join(blocks))
        self.file("proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\nMemAvailable:   8388608 kB\n")
        self.file("proc/vmstat", "nr_free_pages 1\npgfault 0\n")
        self.file("proc/softirqs", "      CPU0 CPU1\n NET_TX: 0 0\n NET_RX: 0 0\n  BLOCK: 0 0\n")
        self.file("proc/diskstats", " 8 0 sda 1 0 0 0 1 0 0 0 0 0 0\n 8 1 sda1 1 0 0 0 1 0 0 0 0 0 0\n")
        self.file("proc/net/dev", "header\n header\n  lo: 5 0 0 0 0 0 0 0 5 0\neth0: 0 0 0 0 0 0 0 0 0 0\n")
        (root / "sys/block/sda").mkdir(parents=True)
        (root / "sys/class/net/eth0/device").mkdir(parents=True)
        for number in range(cpus):
            folder = f"sys/devices/system/cpu/cpu{number}/topology"
            self.file(f"{folder}/physical_package_id", number * sockets // cpus)
            self.file(f"{folder}/thread_siblings_list", number)
        self.write_stat()

    def file(self, name: str, text: str | int) -> None:
        write(self.root / name, text)

    def write_stat(self) -> None:
        # All numbers have the same width, so that a reader in another thread never sees a partly written number.
        total = {mode: sum(ticks[mode] for ticks in self.ticks.values()) for mode in MODES}
        rows = {"": total, **self.ticks}
        lines = [f"cpu{name} " + " ".join(f"{value:012}" for value in ticks.values()) for name, ticks in rows.items()]
        lines += ["intr 5 0 0", f"ctxt {max(self.switches, 0):012}", "btime 1"]
        self.file("proc/stat", "\n".join(lines))
        online = ",".join(map(str, self.ticks))
        self.file("sys/devices/system/cpu/online", online)

    def run(self, seconds: float, load: float = 0.0, steal: float = 0.0, guest: float = 0.0) -> None:
        """Let time pass. `load` is the busy fraction of each CPU, including `guest`, the fraction for guests."""
        self.now += seconds
        for ticks in self.ticks.values():
            ticks["user"] += round(load * seconds * TICKS)
            ticks["guest"] += round(guest * seconds * TICKS)
            ticks["steal"] += round(steal * seconds * TICKS)
            ticks["idle"] += round((1 - load - steal) * seconds * TICKS)
        self.switches += round(100 * seconds)
        self.write_stat()

    def clocks(self) -> Clocks:
        return Clocks(1.7e9 + self.now, self.now, self.now + self.suspended)

    def monotonic(self) -> float:
        return self.now

    def collector(self) -> ProcfsCollector:
        """Return an open collector that reads this machine and its clock."""
        timed = type("TimedCollector", (ProcfsCollector,), {"clocks": staticmethod(self.clocks)})
        collector: ProcfsCollector = timed(str(self.root))
        collector.open()
        return collector
