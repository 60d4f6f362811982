"""The power source that reads power and energy sensors from /sys/class/hwmon."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection
from pathlib import Path

import attrs

from kepler_core.errors import MeterError
from kepler_core.kernel_files import KernelFile, unsigned
from kepler_core.metering import Observation, Reading
from kepler_servers.meter.sources.energy_counter import EnergyCounter, watts_by_component
from kepler_servers.meter.sources.measured import MAIN_COMPONENTS, measured_reading
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.sources.powercap import RESCAN_SECONDS
from kepler_servers.meter.sources.sensor_check import SensorCheck
from kepler_servers.meter.sources.trees import entries_of

MAX_CHIPS = 256
MAX_SENSORS_OF_CHIP = 64
_TEXT_BYTES = 100


@attrs.frozen
class _Rule:
    """Rule for one driver. It selects the sensors that measure the whole machine or its processors."""

    chip: re.Pattern[str]
    label: re.Pattern[str]
    """Pattern of the sensor's label; the label is "" if the driver provides no label."""
    component: str


def _rule(chip: str, label: str, component: str) -> _Rule:
    return _Rule(re.compile(chip), re.compile(label), component)


RULES = (
    # NVIDIA Grace: ACPI power meters, whose names are in the file power1_oem_info.
    _rule("power_meter", r"module power socket [0-9]+", "platform"),
    _rule("power_meter", r"grace power socket [0-9]+", "package"),
    _rule("power_meter", r"cpu power socket [0-9]+", "core"),
    # ACPI power meter of the whole machine (acpi_power_meter).
    _rule("power_meter", r"", "platform"),
    # Power supplies with a USB or PMBus interface.
    _rule("corsairpsu", r"power total", "platform"),
    # Ampere and X-Gene.
    _rule("apm_xgene|xgene_hwmon", r"cpu power", "package"),
    # AMD EPYC, with the driver amd_energy.
    _rule("amd_energy", r"esocket[0-9]+", "package"),
    _rule("amd_energy", r"ecore[0-9]+", "core"),
    # IBM POWER with OPAL.
    _rule("ibmpowernv", r"system", "platform"),
    # Boards that measure the current of the whole board, e.g. NVIDIA Jetson.
    _rule("ina[0-9]+", r"vdd_in|vin_sys_5v0", "platform"),
)
"""The rules that select sensors. Sensors of other drivers measure only a part of the machine, e.g. a graphics card, a
disk or one voltage. The sensors of the driver kepler_core are published by the meter itself."""

_SENSOR = re.compile(r"(power|energy)([0-9]{1,4})_(input|average)")


@attrs.define
class _PowerSensor:
    """A sensor of power in microwatts."""

    check: SensorCheck
    file: KernelFile

    def watts(self, now: float, load: float | None) -> float:
        """Return the watts. Raises `MeterError` if the value of the sensor is not a plausible measurement."""
        value = unsigned(self.file.read())
        if value is None:
            raise MeterError(f"{self.check.where} is not a number of microwatts")
        return self.check.check(value / 1e6, now, load)


class HwmonSource:
    """Power source that reads the power sensors of the machine or its processors in /sys/class/hwmon."""

    kind: Kind = "measured"
    name = "hwmon"

    def __init__(
        self, root: Path, *, own_trees: Collection[Path] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        """See `PowercapSource` for the arguments."""
        self._folder = root / "sys/class/hwmon"
        self._own_trees = {path.resolve() for path in own_trees}
        self._clock = clock
        self._sensors: list[_PowerSensor] = []
        self._counters: list[EnergyCounter] = []
        self._files: list[KernelFile] = []
        self._scanned: tuple[tuple[str, str], ...] = ()
        self._scanned_at: float | None = None

    def read(self, observation: Observation) -> Reading | None:
        now = self._clock()
        if self._scanned_at is None or now - self._scanned_at >= RESCAN_SECONDS:
            self._scan(now)
        if not self._sensors and not self._counters:
            raise MeterError(f"{self._folder} has no power sensor of the machine or its processors")
        watts, problems, waiting = watts_by_component(self._counters, now)
        sums: dict[str, float] = {}
        failed = set()
        for sensor in self._sensors:
            try:
                sums[sensor.check.component] = sums.get(sensor.check.component, 0.0) + sensor.watts(
                    now, observation.load
                )
            except MeterError as error:
                problems.append(str(error))
                failed.add(sensor.check.component)
        watts |= {component: value for component, value in sums.items() if component not in failed}
        if problems and not any(component in watts for component in MAIN_COMPONENTS):
            self._scanned_at = None
        return measured_reading(observation, watts, self.name, self._description(), problems, waiting)

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files, self._sensors, self._counters, self._scanned, self._scanned_at = [], [], [], (), None

    def _description(self) -> str:
        count = len(self._sensors) + len(self._counters)
        return f"power sensors of the machine, {count} in {self._folder}"

    def _scan(self, now: float) -> None:
        found = self._find()
        scanned = tuple((path, component) for path, component in found)
        if scanned != self._scanned:
            self.close()
            self._scanned = scanned
            for path, component in found:
                self._add(Path(path), component)
        self._scanned_at = now

    def _find(self) -> list[tuple[str, str]]:
        """Return the file of each sensor that measures the machine or its processors, and the sensor's component."""
        found = []
        for chip in entries_of(self._folder, self._own_trees, MAX_CHIPS):
            folder = self._folder / chip
            name = _text(folder / "name")
            if not any(rule.chip.fullmatch(name) for rule in RULES):
                continue
            for kind, number, file in _sensors_of(folder):
                if _text(folder / f"{kind}{number}_enable") == "0":
                    continue
                label = _text(folder / f"{kind}{number}_label") or _text(folder / f"{kind}{number}_oem_info")
                rule = next((r for r in RULES if r.chip.fullmatch(name) and r.label.fullmatch(label)), None)
                if rule is not None:
                    found.append((str(folder / file), rule.component))
        return found

    def _add(self, path: Path, component: str) -> None:
        file = KernelFile(path.parent, path.name)
        self._files.append(file)
        if path.name.startswith("power"):
            self._sensors.append(_PowerSensor(SensorCheck(str(path), component), file))
            return

        def read() -> int:
            value = unsigned(file.read())
            if value is None:
                raise MeterError(f"{path} is not a number of microjoules")
            return value

        self._counters.append(EnergyCounter(str(path), component, read))


def _sensors_of(folder: Path) -> list[tuple[str, str, str]]:
    """List the sensors in a folder, with kind, number and file. Averages are preferred to momentary values."""
    files: dict[tuple[str, str], str] = {}
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return []
    for name in names:
        if (match := _SENSOR.fullmatch(name)) is not None:
            files.setdefault((match[1], match[2]), name)
    return [(kind, number, name) for (kind, number), name in sorted(files.items())[:MAX_SENSORS_OF_CHIP]]


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_TEXT_BYTES).decode(errors="replace").strip().casefold()
    except OSError:
        return ""
