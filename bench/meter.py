"""Measure the meter: CPU time, memory, time to the first value, delays, and the energy of its counters.

The benchmark starts `kepler-model serve meter` on a simulated machine that has a powercap folder with four zones. The
power of these zones changes in steps. The benchmark reads the published counters as Kepler does, and compares their
increase with the integral of the watts that the meter reports, in total and in windows of 5 s. In the middle, it kills
the meter with SIGKILL and starts it again. The counters must not increase during this pause.

With `--formula`, the power comes from the machine formula, and the load of this machine changes in steps instead.

    python bench/meter.py [--seconds 120] [--formula] [--quick] [--json]

Without other load on the machine, the targets are: at most 1 % of one CPU with 10 updates per second, at most 60 MB,
the first value within 1 s, and delays of at most 100 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generated_stores import memory_folder
from model_server import megabytes, progress

ZONES = {"package-0": 1.0, "core": 0.6, "uncore": 0.1, "dram": 0.25}
"""Power of each zone as a fraction of the package's power."""
STEPS = (40.0, 165.0, 90.0, 15.0, 120.0)
"""Power of the package in each step, in watts."""
LOADS = (0.0, 0.5, 1.0, 0.2, 0.8)
"""Load that is added to each CPU in each step, with `--formula`. A load of 1.0 keeps a CPU busy all the time."""
STEP_SECONDS = 7.3
FEED_SECONDS = 0.02
WINDOW_SECONDS = 5.0
POLL_SECONDS = 0.01
PAUSE_SECONDS = 3.0
START_TIMEOUT_SECONDS = 120.0
TARGETS = {"cpu_percent": 1.0, "rss_mb": 60.0, "first_value_seconds": 1.0, "latest_delay_seconds": 0.1}
ENERGY_TARGETS = {"total_error_percent": 0.5, "worst_window_percent": 5.0}


class LoadedMachine:
    """This machine, with one process for each CPU. The load of these processes changes in steps (`LOADS`)."""

    source = "formula"
    root = Path("/")

    def __init__(self) -> None:
        code = (
            "import time\n"
            "begin = time.monotonic()\n"
            "while True:\n"
            "    now = time.monotonic()\n"
            f"    load = {LOADS}[int((now - begin) / {STEP_SECONDS}) % {len(LOADS)}]\n"
            "    while time.monotonic() < now + 0.1 * load: pass\n"
            "    time.sleep(0.1 * (1 - load))\n"
        )
        self._processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(os.cpu_count() or 1)]

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


class Machine:
    """A folder with this machine's `proc`, and with a `sys/class/powercap` whose counters a thread increases."""

    source = "powercap"

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stop = threading.Event()
        self._joules = 0.0
        root.mkdir()
        (root / "proc").symlink_to("/proc")
        self._files = {}
        for number, (name, part) in enumerate(ZONES.items()):
            folder = root / "sys" / "class" / "powercap" / ("intel-rapl:0" if not number else f"intel-rapl:0:{number}")
            folder.mkdir(parents=True)
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text(f"{2**38}\n")
            self._files[(folder / "energy_uj").open("wb", buffering=0)] = part
        self._write()
        self._thread = threading.Thread(target=self._feed, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _feed(self) -> None:
        begin = last = time.monotonic()
        while not self._stop.wait(FEED_SECONDS):
            now = time.monotonic()
            self._joules += STEPS[int((now - begin) / STEP_SECONDS) % len(STEPS)] * (now - last)
            last = now
            self._write()

    def _write(self) -> None:
        # The meter keeps its files in /sys open: their content changes, but the files stay the same.
        for file, part in self._files.items():
            os.pwrite(file.fileno(), b"%d\n" % round(1e6 * (100 + part * self._joules)), 0)


class Meter:
    """A process of `kepler-model serve meter`, which has published its first value."""

    def __init__(self, machine: Machine | LoadedMachine, tree: Path, log: Path) -> None:
        self.tree = tree
        began = time.monotonic()
        command = [sys.executable, "-m", "kepler_core", "serve", "meter", "--root", str(machine.root)]
        command += ["--tree", str(tree), "--source", machine.source]
        with log.open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while not self.counters():
            if self.process.poll() is not None or time.monotonic() > began + START_TIMEOUT_SECONDS:
                self.kill()
                sys.exit(f"the meter publishes nothing:\n{log.read_text()[-2000:]}")
            time.sleep(0.002)
        self.first_value = time.monotonic() - began
        """Seconds from the start of the process to its first value."""

    def counters(self) -> dict[str, int]:
        """Return the published counters in µJ, by zone. List the zones first, as other programs do."""
        counters = {}
        with contextlib.suppress(FileNotFoundError):
            for name in self.tree.glob("class/powercap/*/name"):
                counters[name.read_text().strip()] = int((name.parent / "energy_uj").read_text())
        return counters

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.tree / "status.json").read_text())
        return status

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)


def watch(meter: Meter, seconds: float) -> dict[str, Any]:
    """Read the counters for some seconds, and compare them with the reported watts."""
    cpu, began = meter.cpu_seconds(), time.monotonic()
    readings: list[tuple[float, float]] = []
    """Each pair has the time at which the meter began to report a power of the package, and this power in watts."""
    points: list[tuple[float, float]] = []
    """Each pair has a time at which the package's counter has just risen, and the value of the counter in joules."""
    longest = 0.0
    while (now := time.monotonic()) < began + seconds:
        status = meter.status()
        moment = now - (time.time() - status["time"])
        if not readings or moment > readings[-1][0] + 0.005:
            readings.append((moment, status["power"]["package"]["watts"]))
        counters = meter.counters()
        joules = counters["package-0"] / 1e6
        if not points or joules > points[-1][1]:
            longest = max(longest, now - points[-1][0]) if points else 0.0
            points.append((now, joules))
        progress(f"{now - began:.0f} of {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
    used = meter.cpu_seconds() - cpu
    del points[0]  # the counter may have risen long before it was read for the first time
    windows = list(window_errors(points, readings))
    begin, end = points[0], points[-1]
    energy, expected = end[1] - begin[1], integral(readings, begin[0], end[0])
    return {
        "cpu_percent": 100 * used / (time.monotonic() - began),
        "rss_mb": megabytes(meter.process.pid, "VmHWM"),
        "latest_delay_seconds": meter.status()["latest_delay_seconds"],
        "longest_without_increase_seconds": longest,
        "joules": energy,
        "total_error_percent": 100 * (energy / expected - 1),
        "windows": len(windows),
        "worst_window_percent": max(windows, key=abs),
        "lowest_window_watts": min(window_watts(points)),
        "lowest_watts": min(watts for _, watts in readings),
        "highest_watts": max(watts for _, watts in readings),
        "zones": len(counters),
    }


def window_errors(points: list[tuple[float, float]], readings: list[tuple[float, float]]) -> Iterator[float]:
    """Yield for each window how much the counter's increase exceeds the integral of the reported watts, in percent."""
    begin = points[0]
    for point in points:
        if point[0] - begin[0] >= WINDOW_SECONDS:
            yield 100 * ((point[1] - begin[1]) / integral(readings, begin[0], point[0]) - 1)
            begin = point


def window_watts(points: list[tuple[float, float]]) -> Iterator[float]:
    """Yield the mean power of each window in watts, computed from the increase of the counter."""
    begin = points[0]
    for point in points:
        if point[0] - begin[0] >= WINDOW_SECONDS:
            yield (point[1] - begin[1]) / (point[0] - begin[0])
            begin = point


def integral(readings: list[tuple[float, float]], begin: float, end: float) -> float:
    """Return the energy between two times, assuming that each reported power holds until the next report."""
    joules = 0.0
    for (start, watts), following in zip(readings, [*readings[1:], (end, 0.0)], strict=True):
        joules += watts * max(min(following[0], end) - max(start, begin), 0.0)
    return joules


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    machine = LoadedMachine() if arguments.formula else Machine(folder / "machine")
    tree, log = folder / "tree", folder / "log"
    meter: Meter | None = None
    try:
        meter = Meter(machine, tree, log)
        starts = [meter.first_value]
        time.sleep(3)  # the CPU time per second must not contain the start of the meter
        result = watch(meter, arguments.seconds)
        before = meter.counters()["package-0"]
        meter.kill()
        time.sleep(PAUSE_SECONDS)
        left = meter.counters()
        for energy in tree.rglob("energy_uj"):
            energy.rename(energy.with_name("last_energy_uj"))  # as the systemd unit does after a kill
        meter = Meter(machine, tree, log)
        after = meter.counters()["package-0"]
        starts.append(meter.first_value)
        for _ in range(arguments.starts):
            meter.stop()
            result["counters_after_stop"] = len(meter.counters())
            meter = Meter(machine, tree, log)
            starts.append(meter.first_value)
        # `joules_added_by_kill` can be a little above 0, because the new meter has run for a fraction of a second.
        result |= {"first_value_seconds": statistics.median(starts), "all_first_values": starts}
        result |= {"joules_added_by_kill": (after - before) / 1e6, "counters_after_kill": len(left)}
        return result
    finally:
        if meter is not None:
            meter.kill()
        machine.stop()


def show(result: dict[str, Any]) -> None:
    for key, target in {**TARGETS, **ENERGY_TARGETS}.items():
        print(f"{key:>34} {result[key]:8.3f}   target ≤ {target:g}")
    for key in (
        "longest_without_increase_seconds",
        "joules_added_by_kill",
        "joules",
        "windows",
        "zones",
        "lowest_window_watts",
        "lowest_watts",
        "highest_watts",
    ):
        print(f"{key:>34} {result[key]:8.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="duration of the load (%(default)s)")
    parser.add_argument("--starts", type=int, default=3, help="number of extra starts of the meter (%(default)s)")
    parser.add_argument("--formula", action="store_true", help="use the machine formula as the power source")
    parser.add_argument("--quick", action="store_true", help="load the machine for 16 s, and make one extra start")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seconds, arguments.starts = 16.0, 1
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        result = measure(Path(folder), arguments) | {"load_average": busy}
    progress("")
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(
        f"{arguments.seconds:.0f} s; {os.cpu_count()} cores shared with the benchmark; load average {busy:.1f} before; "
        f"{platform.machine()}, Python {platform.python_version()}\n"
    )
    show(result)


if __name__ == "__main__":
    main()
