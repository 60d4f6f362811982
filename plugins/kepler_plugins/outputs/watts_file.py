"""A text file with the watts of this machine, for PowerJoular and scripts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from kepler_core.atomic_files import replace_file
from kepler_core.errors import OutputError
from kepler_core.messages import reason_of
from kepler_core.metering import Output, Power, Reading
from kepler_plugins.outputs.provenance import provenance_text
from kepler_plugins.outputs.publish_lock import PublishLock


class WattsFileOutput(Output):
    """Output that writes the machine's watts into the first line of a text file, for PowerJoular and scripts.

    The further lines contain the 90 % interval and the provenance. While there is no estimate, the file does not exist.
    """

    def __init__(self, path: str) -> None:
        """`path` is the path of the file."""
        self.path = Path(path)
        self._descriptor: int | None = None
        self._lock = PublishLock(self.path.with_name(f".{self.path.name}.lock"))

    def open(self) -> None:
        """Lock the file, and remove it if a killed process has left it.

        Raises `OutputError` if another meter writes the file, or if its folder cannot be written.
        """
        try:
            if self.path.is_dir():
                raise OutputError(f"cannot write {self.path}: it is a folder")
            self._lock.acquire()
            self.path.unlink(missing_ok=True)
        except OSError as error:
            self._lock.release()
            raise self._error(error) from error

    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        power = machine_power(reading)
        content = f"{power.watts:.3f}\nlower: {power.lower:.3f}\nupper: {power.upper:.3f}\n".encode()
        try:
            self._lock.acquire()
            if self._descriptor is None:
                self._descriptor = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            replace_file(self._descriptor, self.path.name, content + provenance_text(reading))
        except OSError as error:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            self._leave()
            raise self._error(error) from error

    def withdraw(self, reason: str) -> None:
        """Remove the file with the watts."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        if self._descriptor is not None:  # the file stays if it belongs to another meter
            with contextlib.suppress(OutputError):
                self.withdraw("the meter has ended")
        self._leave()
        self._lock.release()

    def _leave(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _error(self, error: OSError) -> OutputError:
        return OutputError(f"cannot write {self.path}: {reason_of(error)}")


def machine_power(reading: Reading) -> Power:
    """Return the power of the whole machine: platform, or package + dram if platform is not known.

    The limits of the interval of package + dram are the sums of the limits of package and of dram. A wider interval is
    not possible.
    """
    main = reading.power[reading.main]
    if reading.main != "package" or "dram" not in reading.power:
        return main
    dram = reading.power["dram"]
    return Power(main.watts + dram.watts, main.lower + dram.lower, main.upper + dram.upper)
