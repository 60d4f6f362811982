"""A folder that looks like `/sys/class/hwmon` of Linux, with the watts of the meter as a power sensor.

Kepler (version 0.11.4 and later) and node_exporter read such a folder in place of the real one. Kepler calculates the
energy from the power.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from kepler_core.atomic_files import replace_file
from kepler_core.errors import OutputError
from kepler_core.messages import reason_of
from kepler_core.metering import Output, Reading
from kepler_core.vocabulary import ZONE_OF_COMPONENT
from kepler_plugins.outputs.provenance import FILE_NAME as PROVENANCE
from kepler_plugins.outputs.provenance import provenance_text
from kepler_plugins.outputs.publish_lock import PublishLock

CHIP = "kepler_core"
"""Name of the hwmon chip. Linux forbids "-" in these names (Documentation/hwmon/sysfs-interface)."""
LOCK = ".kepler-core-hwmon.lock"
_SENSORS = {component: number for number, component in enumerate(ZONE_OF_COMPONENT, 1)}
"""The number of each component's sensor. The numbers do not depend on the power source, so Kepler can always read the
same paths."""


class HwmonOutput(Output):
    """Output that writes watts in the form of a power sensor below `/sys/class/hwmon`, for Kepler and node_exporter."""

    def __init__(self, root: str) -> None:
        """`root` is the folder that stands for `/sys`."""
        self.root = Path(root)
        self._descriptor: int | None = None
        self._labelled: set[str] = set()
        """Components whose sensor labels have been written."""
        self._provenance = b""
        self._lock = PublishLock(self.root / LOCK)

    @property
    def folder(self) -> Path:
        """The folder of the hwmon chip."""
        return self.root / "class" / "hwmon" / "hwmon0"

    def open(self) -> None:
        """Lock the folder, and remove the values that a killed process has left.

        Raises `OutputError` if another meter writes to the folder, if the folder has files but no meter has made it,
        or if it cannot be written.
        """
        try:
            self._lock.acquire()
            if self.folder.is_dir() and any(self.folder.iterdir()) and not (self.folder / PROVENANCE).is_file():
                self._lock.release()
                raise OutputError(f"no meter has made {self.folder}; choose an empty folder")
            self.folder.mkdir(parents=True, exist_ok=True)
            for component in _SENSORS:
                (self.folder / _input(component)).unlink(missing_ok=True)
        except OSError as error:
            self._lock.release()
            raise self._error(error) from error

    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        try:
            self._lock.acquire()
            if self._descriptor is None:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            folder = self._descriptor
            if (provenance := provenance_text(reading)) != self._provenance:
                replace_file(folder, PROVENANCE, provenance)
                replace_file(folder, "name", f"{CHIP}\n".encode())
                self._provenance = provenance
            for component in _SENSORS:
                if (power := reading.power.get(component)) is None:
                    _remove(folder, _input(component))
                    continue
                replace_file(folder, _input(component), b"%d\n" % round(power.watts * 1e6))
                if component not in self._labelled:
                    number = _SENSORS[component]
                    replace_file(folder, f"power{number}_label", f"{ZONE_OF_COMPONENT[component]}\n".encode())
                    replace_file(folder, f"power{number}_enable", b"1\n")
                    self._labelled.add(component)
        except OSError as error:
            self._leave()
            raise self._error(error) from error

    def withdraw(self, reason: str) -> None:
        """Remove the values of all sensors."""
        try:
            if self._descriptor is not None:
                for component in _SENSORS:
                    _remove(self._descriptor, _input(component))
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        self._leave()
        self._lock.release()

    def _leave(self) -> None:
        """Remove the values of all sensors if possible. The next write opens the folder again and writes all files."""
        if self._descriptor is not None:
            for component in _SENSORS:
                with contextlib.suppress(OSError):
                    _remove(self._descriptor, _input(component))
            os.close(self._descriptor)
            self._descriptor = None
        self._labelled.clear()
        self._provenance = b""

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self.folder}: {reason_of(error)}")


def _input(component: str) -> str:
    return f"power{_SENSORS[component]}_input"


def _remove(folder: int, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
