"""The power sources that read energy counters from a folder tree in the form of /sys/class/powercap.

The kernel provides this folder tree, or the host of a virtual machine writes it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from pathlib import Path

from kepler_core.errors import MeterError
from kepler_core.kernel_files import KernelFile, unsigned
from kepler_core.metering import Observation, Reading
from kepler_servers.meter.sources.energy_counter import EnergyCounter, watts_by_component
from kepler_servers.meter.sources.measured import MAIN_COMPONENTS, measured_reading
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.sources.trees import entries_of

OWN_PREFIXES = ("kepler-core", "kepler_core")
"""Prefixes of the names of directories and sensors that Kepler Core itself publishes. The meter must not read them."""
PROVENANCE = "provenance"
"""Name of the file in which the meter's output `powercap` states the power source of a zone."""
MAX_ZONES = 256
_TEXT_BYTES = 2000
RESCAN_SECONDS = 60.0
"""Interval at which the source searches the folder for zones that were added or removed."""
PROVIDED_PATIENCE_SECONDS = 30.0
PROVIDED_SMOOTHING_SECONDS = 10.0
# The two times above are longer than those for the kernel's counters, because Scaphandre writes only every 2 to 10 s.

_INDEX = re.compile(r"(?:-die)?-[0-9]+")
_COMPONENTS = {"package": "package", "core": "core", "uncore": "uncore", "dram": "dram", "psys": "platform"}
_TOP_LEVEL = re.compile(r"intel-rapl:[0-9]+")


class PowercapSource:
    """Power source that reads the energy counters of the processors (RAPL) in /sys/class/powercap."""

    kind: Kind = "measured"
    keeps_files_open = True
    """Whether the source keeps the files of the counters open. It keeps files of the kernel open, but not files of a
    program, because a program may replace its files."""

    def __init__(
        self,
        root: Path,
        *,
        own_trees: Collection[Path] = (),
        clock: Callable[[], float] = time.monotonic,
        name: str = "powercap",
        folder: Path | None = None,
    ) -> None:
        """`root` is the folder that contains sys. `own_trees` are folders that Kepler Core writes, which must not be
        read. `clock` returns monotonic seconds. `folder` is the folder with the zones, if it is not sys/class/powercap.
        """
        self.name = name
        self._root = root
        self._folder = folder or root / "sys/class/powercap"
        self._own_trees = {path.resolve() for path in own_trees}
        self._clock = clock
        self._counters: list[EnergyCounter] = []
        self._files: list[KernelFile] = []
        self._zones: tuple[str, ...] = ()
        self._scanned_at: float | None = None
        self._skipped = ""
        """Name of a zone that was left out because it is not a measurement."""

    def read(self, observation: Observation) -> Reading | None:
        now = self._clock()
        if self._scanned_at is None or now - self._scanned_at >= RESCAN_SECONDS or not self._counters:
            self._scan(now)
        if not self._counters:
            raise MeterError(self._why_no_zones())
        watts, problems, waiting = watts_by_component(self._counters, now)
        if problems and not any(component in watts for component in MAIN_COMPONENTS):
            self._scanned_at = None
        return measured_reading(observation, watts, self.name, self._description(), problems, waiting)

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files, self._counters, self._zones, self._scanned_at = [], [], (), None

    def _description(self) -> str:
        return f"energy counters of the processors (RAPL), {len(self._counters)} zones in {self._folder}"

    # --- zones ---

    def _scan(self, now: float) -> None:
        """Find the zones. If the zones have not changed, keep their counters, because these have earlier values."""
        self._scanned_at = now
        zones = self._find_zones()
        if tuple(zone for zone, _ in zones) == self._zones and self._counters:
            return
        self.close()
        self._scanned_at = now
        self._zones = tuple(zone for zone, _ in zones)
        self._counters = [self._counter(self._folder / zone, component) for zone, component in zones]

    def _find_zones(self) -> list[tuple[str, str]]:
        """Return the directory name and the component of each zone. If two zones count the same energy, only one is
        returned."""
        names = entries_of(self._folder, self._own_trees, MAX_ZONES)
        self._skipped = ""
        zones: dict[tuple[str, str], str] = {}
        for name in names:
            path = self._folder / name
            if not (path / "energy_uj").exists():
                continue
            if name.startswith(OWN_PREFIXES) or not self._is_measurement(path):
                self._skipped = name
                continue
            label = self._label(path)
            component = _COMPONENTS.get(_INDEX.sub("", label))
            if component is None:
                continue
            # The kernel may list a package twice: as intel-rapl:0 and as intel-rapl-mmio:0, both with the label
            # package-0.
            socket = (
                label if component == "package" else name.removeprefix("intel-rapl-mmio:").removeprefix("intel-rapl:")
            )
            zones[component, socket] = name  # intel-rapl comes last, and replaces intel-rapl-mmio
        return [(name, component) for (component, _), name in sorted(zones.items())]

    def _is_measurement(self, zone: Path) -> bool:
        """Return whether a zone is from the kernel. Zones that a meter publishes have a file `provenance`."""
        return not (zone / PROVENANCE).exists()

    def _label(self, zone: Path) -> str:
        """Return the name of a zone, e.g. "package-0" or "dram"; "" if it has none."""
        return _text(zone / "name").strip().casefold()

    def _counter(self, zone: Path, component: str) -> EnergyCounter:
        try:
            content = (zone / "max_energy_range_uj").read_bytes()[:40]
        except OSError:
            content = b""
        return EnergyCounter(
            str(zone / "energy_uj"), component, self._reader(zone), range_microjoules=unsigned(content) or 0
        )

    def _reader(self, zone: Path) -> Callable[[], int]:
        file = KernelFile(zone, "energy_uj", keep_open=self.keeps_files_open)
        self._files.append(file)

        def read() -> int:
            try:
                value = unsigned(file.read())
            except MeterError as error:
                if isinstance(error.__cause__, PermissionError):
                    raise MeterError(
                        f"{zone / 'energy_uj'} can only be read by root: run as root, grant CAP_DAC_READ_SEARCH, or "
                        f"`chmod a+r {self._folder}/*/energy_uj` at each start of the machine"
                    ) from error
                raise MeterError(f"{zone}{error.message}") from error
            if value is None:
                raise MeterError(f"{zone / 'energy_uj'} is not a number of microjoules")
            return value

        return read

    def _why_no_zones(self) -> str:
        if not self._folder.is_dir():
            return f"{self._folder} does not exist: no RAPL, or no driver for it"
        if self._skipped:
            return f"{self._folder / self._skipped} is published by Kepler Core, and is not a measurement"
        return f"{self._folder} has no zones of energy counters"


class ProvidedTreeSource(PowercapSource):
    """Power source that reads a folder tree in which the host of this virtual machine writes the machine's power.

    Scaphandre, for example, writes such trees. The zones are called intel-rapl:N. They may lack the files `name` and
    `max_energy_range_uj`.
    """

    keeps_files_open = False

    def __init__(
        self,
        root: Path,
        *,
        folder: Path | None = None,
        own_trees: Collection[Path] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`folder` is the folder that the host writes; by default Scaphandre's folder, /var/scaphandre."""
        super().__init__(
            root, own_trees=own_trees, clock=clock, name="provided", folder=folder or root / "var/scaphandre"
        )

    def _is_measurement(self, zone: Path) -> bool:
        """Return whether the power in a zone of the folder tree was measured on the host.

        If a meter on the host has written the zone, the file `provenance` states whether the host's power was measured.
        If the meter on the host has itself read its power from a folder tree of another host, the result is False.
        """
        text = _text(zone / PROVENANCE)
        return not text or ("kind: measured" in text.splitlines() and f"name: {self.name}" not in text.splitlines())

    def _description(self) -> str:
        return f"power that the host of this virtual machine provides in {self._folder}"

    def _reader(self, zone: Path) -> Callable[[], int]:
        read_file = super()._reader(zone)
        path = zone / "energy_uj"
        latest: list[int] = []

        def read() -> int:
            try:
                if latest and path.stat().st_size == 0:
                    return latest[0]  # Scaphandre empties the file before it writes the next value.
            except OSError as error:
                raise MeterError(f"{path}: {error.strerror or error}") from error
            latest[:] = [read_file()]
            return latest[0]

        return read

    def _label(self, zone: Path) -> str:
        label = super()._label(zone)
        if label:
            return label
        return f"package-{zone.name.rpartition(':')[2]}" if _TOP_LEVEL.fullmatch(zone.name) else ""

    def _counter(self, zone: Path, component: str) -> EnergyCounter:
        counter = super()._counter(zone, component)
        counter.patience_seconds = PROVIDED_PATIENCE_SECONDS
        counter.smoothing_seconds = PROVIDED_SMOOTHING_SECONDS
        counter.discard_first_change = True
        return counter

    def _why_no_zones(self) -> str:
        if self._skipped:
            return f"{self._folder / self._skipped} is an estimate of the host, not a measurement"
        return f"{self._folder}: the host provides no power"


def _text(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(_TEXT_BYTES).decode(errors="replace")
    except OSError:
        return ""
