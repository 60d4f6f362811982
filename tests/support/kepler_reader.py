"""Reads files like those in /sys by the rules of Kepler 0.10 to 0.11.4. The rules were observed on running Keplers."""

from __future__ import annotations

import re
from pathlib import Path

MAX_UINT64 = 2**64 - 1
_INDEX = re.compile(r"^(.*)-[0-9]+$")
PRIMARY = ("psys", "package", "core", "dram", "uncore")
"""Kepler reports the power of the first of these zones that exists as the node's power."""


class ReadError(Exception):
    """Raised where Kepler would export no power metric at all in a refresh, or would not start."""


def unsigned(path: Path) -> int:
    """Read an unsigned 64-bit decimal number as Go's ParseUint does. Blanks around it are cut."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ReadError(f"{path}: {error}") from error
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_UINT64):
        raise ReadError(f"{path}: {text!r} is no unsigned number")
    return int(text)


class KeplerRapl:
    """Kepler's meter `rapl`: it lists the zones when it starts, and then reads the paths that it has found."""

    def __init__(self, root: Path) -> None:
        self._paths: dict[str, list[Path]] = {}
        self._ranges: dict[str, int] = {}
        for folder in sorted((root / "class" / "powercap").iterdir()):
            try:
                name = (folder / "name").read_text().strip()
            except OSError:
                continue  # the folder is no zone
            match = _INDEX.match(name)
            zone = match.group(1) if match else name
            self._ranges[zone] = self._ranges.get(zone, 0) + unsigned(folder / "max_energy_range_uj")
            self._paths.setdefault(zone, []).append(folder)
        if not self._paths:
            raise ReadError("no RAPL zones found")
        self._before: dict[str, int] = {}
        self._time: float | None = None

    @property
    def paths(self) -> dict[str, str]:
        """Kepler's label `path` by zone."""
        return {
            zone: str(folders[0]) if len(folders) == 1 else f"aggregated-{zone}"
            for zone, folders in self._paths.items()
        }

    @property
    def primary(self) -> str:
        return next(zone for zone in PRIMARY if zone in self._paths)

    def refresh(self, now: float) -> dict[str, float]:
        """Return the watts of each zone since the latest refresh. The first refresh returns an empty dict.

        Raises `ReadError` if one zone cannot be read, because Kepler's whole refresh fails then.
        """
        counters = {
            zone: sum(unsigned(folder / "energy_uj") for folder in folders) for zone, folders in self._paths.items()
        }
        watts = {}
        if self._time is not None:
            for zone, counter in counters.items():
                before, highest = self._before[zone], self._ranges[zone]
                if counter >= before:
                    joules = (counter - before) / 1e6
                else:  # the counter has overflowed, or was reset to 0
                    joules = (highest - before + counter) / 1e6 if highest > 0 else 0.0
                watts[zone] = joules / (now - self._time)
        self._before, self._time = counters, now
        return watts


def kepler_hwmon(root: Path) -> dict[str, float]:
    """Return the watts by zone of Kepler's meter `hwmon`. A zone is a sensor label in a normalised form."""
    watts: dict[str, float] = {}
    for chip in sorted((root / "class" / "hwmon").iterdir()):
        if not (chip / "name").exists():
            continue
        sensors = {re.sub("_.*", "", path.name) for path in chip.glob("power[0-9]*_*")}
        for sensor in sorted(sensors):
            enabled = chip / f"{sensor}_enable"
            if enabled.exists() and unsigned(enabled) == 0:
                continue
            average, present = chip / f"{sensor}_average", chip / f"{sensor}_input"
            label = (chip / f"{sensor}_label").read_text().strip().lower()
            watts[re.sub("[^a-z0-9:_]", "_", label)] = unsigned(average if average.exists() else present) / 1e6
    return watts
