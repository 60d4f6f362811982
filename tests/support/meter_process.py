"""A meter that runs as a process under test, on a machine with a scripted power sensor."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.process import ProcessUnderTest
from support.readings import zones_of


class SensorMachine:
    """A root folder for the meter, with a sensor for the power of the whole machine in `sys/class/hwmon`."""

    def __init__(self, root: Path, watts: float = 42.0, *, proc: bool = True) -> None:
        """Write the files of the sensor. If `proc` is true, link this machine's /proc into the folder."""
        self.root = root
        folder = root / "sys" / "class" / "hwmon" / "hwmon0"
        folder.mkdir(parents=True)
        if proc:
            (root / "proc").symlink_to("/proc")
        (folder / "name").write_text("power_meter\n")
        self._sensor = folder / "power1_average"
        self.set(watts)

    def set(self, watts: float) -> None:
        self._sensor.write_text(f"{round(1e6 * watts)}\n")


class MeterProcess(ProcessUnderTest):
    """A process of `kepler-model serve meter` that publishes its counters in the folder `tree`."""

    def __init__(
        self, root: Path, tree: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None
    ) -> None:
        self.tree = tree
        log = tree.with_name(f"{tree.name}.{os.urandom(4).hex()}.log")
        command = ["serve", "meter", "--root", root, "--tree", tree, "--interval", "0.5", *arguments]
        super().__init__(command, log, environ)

    def zones(self) -> dict[str, int]:
        """Return the published counters in µJ by zone. Return an empty dict while the meter publishes none."""
        try:
            return zones_of(self.tree)
        except FileNotFoundError:
            return {}

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads((self.tree / "status.json").read_text())
        return status

    def wait_published(self) -> None:
        """Wait until this meter publishes a counter. Ignore files that an earlier meter has left behind."""

        pid = self.process.pid

        def published() -> bool:
            return bool(self.zones()) and (self.tree / "status.json").exists() and self.status()["pid"] == pid

        self.wait_until(published, "no counter is published")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextmanager
def running_meter(
    root: Path, tree: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None
) -> Iterator[MeterProcess]:
    """Run a meter that has published its first value. At the end, stop it and check its log and exit code."""
    meter = MeterProcess(root, tree, *arguments, environ=environ)
    try:
        meter.wait_published()
        yield meter
    finally:
        code = meter.stop()
    meter.check_log()
    assert code == 0, meter.log
