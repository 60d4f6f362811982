"""A folder that looks like `/sys/class/powercap` of Linux, with the energy counters of the meter.

Kepler (version 0.10 and later), node_exporter and Scaphandre read such a folder in place of the real one. Three facts
about these programs determine what this module writes:

- Kepler lists the zones when it starts, and then reads `<zone>/energy_uj` at the paths that it found. node_exporter
  lists the zones at each scrape. Both programs ignore a folder without the file `name`.
- If no counter increases in a period, Kepler loses the energy counters of all workloads.
- If Kepler cannot read one zone, it exports no power at all. So this module removes the counters while the meter has no
  estimate.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from kepler_core.atomic_files import replace_file
from kepler_core.errors import OutputError
from kepler_core.messages import reason_of
from kepler_core.metering import Output, Reading
from kepler_core.vocabulary import ZONE_OF_COMPONENT, in_component_order
from kepler_plugins.outputs.provenance import FILE_NAME as PROVENANCE
from kepler_plugins.outputs.provenance import provenance_text
from kepler_plugins.outputs.publish_lock import PublishLock

ENERGY = "energy_uj"
LAST_ENERGY = "last_energy_uj"
"""File with the last value of the counter. It replaces `energy_uj` while the meter has no estimate. Other programs
never read it."""
_NAME = "name"
_RANGE = "max_energy_range_uj"
LOCK = ".kepler-core-powercap.lock"

_SCAPHANDRE = {
    "package": "intel-rapl:0",
    "core": "intel-rapl:0:0",
    "uncore": "intel-rapl:0:1",
    "dram": "intel-rapl:0:2",
    "psys": "intel-rapl:1",
}
"""For each zone, the folder's name as the Intel driver gives it. Scaphandre and CodeCarbon read no other folders."""
_COMPONENT_OF = {zone: component for component, zone in ZONE_OF_COMPONENT.items()}
_COUNTER = re.compile(rb"[0-9]{1,18}\n?")


class PowercapOutput(Output):
    """Output that writes energy counters in the form of `/sys/class/powercap`, for Kepler, node_exporter, Scaphandre.

    Each component has one folder with the file `name`. The folder is named after the provenance of the watts at the
    time when the folder was made. If the provenance changes, the output makes a new folder. In the old folder, it
    removes `name` and replaces `energy_uj` by a link to the new counter. So a Kepler that was started before the change
    continues to read the counter at the old path.
    """

    advance_seconds: ClassVar[float | None] = 0.1
    """Interval at which the counters are increased. Kepler reads the counters at most every half second, at any time.
    Between two reads, the counters must increase."""

    def __init__(self, root: str, scaphandre: bool = False) -> None:
        """`root` is the folder that stands for `/sys`. With `scaphandre`, folders are named `intel-rapl:N`."""
        self.root = Path(root)
        self.scaphandre = scaphandre
        self._zones: dict[str, _ZoneFolder] = {}
        """The folders that are being written, by component."""
        self._lowest: dict[str, int] = {}
        """Each component's counter at the start of the meter, in microjoules. Lower values are never written."""
        self._provenance = b""
        self._lock = PublishLock(self.root / LOCK)

    @property
    def folder(self) -> Path:
        """The folder that stands for `/sys/class/powercap`."""
        return self.root / "class" / "powercap"

    def restore(self) -> dict[str, float]:
        """Return the joules of each component's energy counter in the folder; {} if the folder does not exist."""
        joules: dict[str, float] = {}
        with contextlib.suppress(OSError):
            for path in self._own_folders():
                component = _component_of(path.name)
                for name in (ENERGY, LAST_ENERGY):
                    microjoules = _read_counter(path / name)
                    if component is not None and microjoules is not None:
                        joules[component] = max(joules.get(component, 0.0), microjoules / 1e6)
        return joules

    def open(self) -> None:
        """Lock the folder, and withdraw the counters that a killed process has left.

        Raises `OutputError` if another meter writes to the folder, if the folder contains zones that no meter has made,
        or if it cannot be written.
        """
        try:
            self._lock.acquire()
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.scaphandre:
                _make_subsystem_link(self.folder)
            foreign = [path.name for path in self.folder.iterdir() if (path / _NAME).exists() and not _is_own(path)]
            if foreign:
                self._lock.release()
                raise OutputError(
                    f"{self.folder} contains {min(foreign)}, which no meter has made; choose an empty folder"
                )
            self._lowest = {component: round(joules * 1e6) for component, joules in self.restore().items()}
            for path in self._own_folders():
                _withdraw_counter(path)
        except OSError as error:
            self._lock.release()
            raise self._error(error) from error

    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        components = [name for name in in_component_order(reading.power) if name in ZONE_OF_COMPONENT]
        provenance = provenance_text(reading)
        names = {component: self._folder_name(reading, component) for component in components}
        try:
            self._lock.acquire()
            if names != {component: zone.name for component, zone in self._zones.items()}:
                self._arrange(names, provenance, joules)
                return
            if provenance != self._provenance:
                self._write_provenance(provenance)
            self._write_counters(joules)
        except OSError as error:
            self._retreat()
            raise self._error(error) from error

    def advance(self, joules: Mapping[str, float]) -> None:
        try:
            self._write_counters(joules)
        except OSError as error:
            self._retreat()
            raise self._error(error) from error

    def withdraw(self, reason: str) -> None:
        """Remove `energy_uj` of all zones. The files `name` stay, so that a Kepler that starts later finds zones."""
        try:
            for zone in self._zones.values():
                zone.withdraw()
        except OSError as error:
            raise self._error(error) from error
        finally:
            self._leave_zones()

    def close(self) -> None:
        with contextlib.suppress(OutputError):
            self.withdraw("the meter has ended")
        self._lock.release()

    def _folder_name(self, reading: Reading, component: str) -> str:
        zone = ZONE_OF_COMPONENT[component]
        return _SCAPHANDRE[zone] if self.scaphandre else f"{reading.provenance.slug}:{zone}"

    def _arrange(self, names: Mapping[str, str], provenance: bytes, joules: Mapping[str, float]) -> None:
        """Create the folder of each component (`names`), and remove the file `name` from all other folders."""
        self._leave_zones()
        self.folder.mkdir(parents=True, exist_ok=True)
        for component, name in names.items():
            path = self.folder / name
            path.mkdir(exist_ok=True)
            self._zones[component] = _ZoneFolder(path)
        self._write_provenance(provenance)  # write this file first: it marks the folders as made by a meter
        for zone in self._zones.values():
            zone.replace(_RANGE, b"0\n")
        self._write_counters(joules)
        for path in self._own_folders():
            if path.name not in names.values():
                _replace_by_alias(path, names.get(_component_of(path.name) or ""))
        for component, zone in self._zones.items():
            zone.replace(_NAME, f"{_zone_name(component)}\n".encode())
            with contextlib.suppress(FileNotFoundError):
                os.unlink(LAST_ENERGY, dir_fd=zone.descriptor)

    def _write_provenance(self, provenance: bytes) -> None:
        for zone in self._zones.values():
            zone.replace(PROVENANCE, provenance)
        self._provenance = provenance

    def _write_counters(self, joules: Mapping[str, float]) -> None:
        lowest = self._lowest
        for component, zone in self._zones.items():
            # Kepler treats a counter of 0 as a meter that does not work, so counters start at 1.
            microjoules = max(round(joules[component] * 1e6), lowest.get(component, 1), 1)
            zone.replace(ENERGY, b"%d\n" % microjoules)
            lowest[component] = microjoules

    def _retreat(self) -> None:
        """After a failed write, remove the counters, because other programs would read old values as current values.

        The next write makes the counters again.
        """
        self._leave_zones()
        # If the write failed, some old folders may not yet be replaced by new ones. So search all folders.
        with contextlib.suppress(OSError):
            for path in self._own_folders():
                _withdraw_counter(path)

    def _leave_zones(self) -> None:
        for zone in self._zones.values():
            os.close(zone.descriptor)
        self._zones = {}
        self._provenance = b""

    def _own_folders(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if _is_own(path))

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self.folder}: {reason_of(error)}")


class _ZoneFolder:
    """The folder of one zone. It stays open, so that the kernel need not look up its path for each write."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def replace(self, name: str, content: bytes) -> None:
        replace_file(self.descriptor, name, content)

    def withdraw(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(ENERGY, LAST_ENERGY, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)


def _make_subsystem_link(folder: Path) -> None:
    """Make the link `intel-rapl/subsystem` to `folder`. CodeCarbon looks for zones only below the path of this link."""
    link = folder / "intel-rapl" / "subsystem"
    link.parent.mkdir(exist_ok=True)
    if not link.is_symlink():
        link.symlink_to("..")


def _zone_name(component: str) -> str:
    """Return the content of the file `name`: the name of the component's zone, e.g. "package-0" or "dram"."""
    return "package-0" if component == "package" else ZONE_OF_COMPONENT[component]


def _component_of(folder_name: str) -> str | None:
    """Return the component whose counter is in a folder of this name."""
    zones = (zone for zone, name in _SCAPHANDRE.items() if name == folder_name)
    return _COMPONENT_OF.get(next(zones, folder_name.rpartition(":")[2]))


def _is_own(path: Path) -> bool:
    return (path / PROVENANCE).is_file()


def _read_counter(path: Path) -> int | None:
    try:
        with path.open("rb") as file:
            content = file.read(32)
    except OSError:
        return None
    return int(content) if _COUNTER.fullmatch(content) else None


def _withdraw_counter(folder: Path) -> None:
    """Rename the counter in a folder, so that no program reads it. A link to another folder's counter stays."""
    if not (folder / ENERGY).is_symlink():
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder / ENERGY, folder / LAST_ENERGY)


def _replace_by_alias(folder: Path, current: str | None) -> None:
    """Hide a folder from programs that list zones. Replace its counter by a link to the counter in `current`.

    If `current` is None, the component has no counter now, and the folder keeps its last counter.
    """
    (folder / _NAME).unlink(missing_ok=True)
    if current is None:
        _withdraw_counter(folder)
        return
    target = f"../{current}/{ENERGY}"
    if (folder / ENERGY).is_symlink() and os.readlink(folder / ENERGY) == target:
        return
    link = folder / f".{ENERGY}.link"
    link.unlink(missing_ok=True)
    link.symlink_to(target)
    os.replace(link, folder / ENERGY)
    (folder / LAST_ENERGY).unlink(missing_ok=True)
