"""Read the power of a virtual machine from a recording of its host's Kepler 0.10 or later.

A *window* is the time between two readings of the host. Kepler's own windows are irregular: Kepler refreshes all
metrics at an interval, and also when a program reads them. So a window ends when the values change, and not at each
timestamp of the recording: repeated values belong to the window that ends with the next change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import attrs
import numpy as np

from kepler_core import kepler_names as names
from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.errors import RecordingError, close_matches
from kepler_core.messages import printable, quoted
from kepler_core.pairs.host_node import HostNode, by_component
from kepler_core.pairs.increases import Labels, increases, on_grid, selected
from kepler_core.pairs.targets import capacity_watts, kepler_watts, marginal_watts
from kepler_core.pairs.usage_lag import usage_of_windows
from kepler_core.recording.columns import Metric, Recording
from kepler_core.vocabulary import Target, in_component_order

SHORTEST_WINDOW_SECONDS = 0.9
"""Windows shorter than this are left out. CPU time has a resolution of 10 ms, which is 1 % of one CPU in a second."""
LONGEST_WINDOW = 5.0
"""Windows that are longer than this multiple of the median window are left out: the recording has a gap there."""
WINDOWS_AFTER_START = 2
"""Number of windows that are left out after a start of Kepler. In its first window, Kepler counts all CPU time that
each process has used before."""


@attrs.frozen(eq=False)
class Reservation:
    """What the target `marginal` needs besides the recording: the host's idle power, and the reserved part."""

    idle_watts: Mapping[str, float]
    """Power of the idle host in watts, by component."""
    part: float
    """Part of the host that is reserved for the virtual machine, from 0 to 1."""


@attrs.frozen(eq=False)
class HostWindows:
    """The power of a virtual machine in the windows of its host's recording."""

    vm: str
    """Id of the virtual machine."""
    start: FloatArray
    """Start of each window in Unix seconds of the host's clock, shape (windows,)."""
    end: FloatArray
    """End of each window in Unix seconds of the host's clock, shape (windows,), ascending."""
    watts: Mapping[str, FloatArray]
    """Watts of the virtual machine by component, each of shape (windows,); NaN for an unknown value."""
    basis: str
    """Text that names the metrics from which the watts were calculated."""
    notes: tuple[str, ...]
    """Remarks for the user, one line each."""
    left_out: Mapping[str, int]
    """Number of windows that were left out, by reason."""
    repeats: float
    """Fraction of the recording's timestamps whose values are the same as at the previous timestamp."""


def read_host(recording: Recording, vm: str, target: Target, reservation: Reservation | None = None) -> HostWindows:
    """Return the power of a virtual machine in a recording of its host.

    `vm` is the label `vm_id` or `vm_name` of the virtual machine. `target` tells which part of the host's power counts
    as its power (`kepler_core.pairs.targets`). The watts come from counters of joules. For the target `kepler` alone,
    the gauge of watts is enough. Raises `RecordingError` if the recording does not have the virtual machine or the
    metrics that the target needs.
    """
    host = _Host(recording, vm)
    if target == "kepler":
        return host.reported()
    return host.of_target(target, reservation)


@attrs.frozen(eq=False)
class _Windows:
    """The intervals between ascending timestamps (`grid`), joined into windows."""

    grid: FloatArray
    first: IntArray
    """Index of the first interval of each window, shape (windows,), ascending."""
    count: int
    """Number of intervals up to the end of the last window. Later intervals belong to no window."""

    @property
    def start(self) -> FloatArray:
        """Time at which each window begins, shape (windows,)."""
        return self.grid[self.first]

    @property
    def end(self) -> FloatArray:
        """Time at which each window ends, shape (windows,)."""
        return self.grid[self.last]

    @property
    def last(self) -> IntArray:
        """Index of the timestamp at the end of each window, shape (windows,)."""
        return np.append(self.first[1:], self.count) if self.count else self.first

    def sums(self, values: FloatArray) -> FloatArray:
        """Return the sum of `values` over the intervals of each window; NaN if one of these values is unknown."""
        if not self.count:
            return np.empty(0)
        sums: FloatArray = np.add.reduceat(values[: self.count], self.first)
        return sums


class _Host:
    """The metrics of one host and one of its virtual machines."""

    def __init__(self, recording: Recording, vm: str) -> None:
        self.recording = recording
        self.labels = _labels_of(recording, vm)
        self.vm = self.labels.get("vm_id") or vm
        self.node = HostNode(recording, self.labels)

    def reported(self) -> HostWindows:
        """Return the watts of the target `kepler`, from joules or, if the recording has none, from the gauge of watts.

        If Kepler's CPU usage lags (`kepler_core.pairs.usage_lag`), the watts are corrected.
        """
        joules = self._of_vm(names.VM_JOULES)
        if joules is None:
            gauge = self._of_vm(names.VM_WATTS)
            if gauge is None:
                raise self.node.missing(names.VM_JOULES)
            return self._from_gauge(gauge)
        if (repaired := self._repaired()) is not None:
            return repaired
        grid = np.unique(joules.timestamps)
        zones = {zone: increases(metric, grid) for zone, metric in by_component(joules).items()}
        windows = _joined(grid, zones, _fell(joules, grid))
        watts = {zone: windows.sums(values) / (windows.end - windows.start) for zone, values in zones.items()}
        return self._result(windows, watts, f"differences of {names.VM_JOULES}", ())

    def of_target(self, target: Target, reservation: Reservation | None) -> HostWindows:
        """Return the watts of the target `capacity` or `marginal`."""
        grid, energy = self.node.energy()
        vm_seconds, all_seconds = self._cpu_seconds(grid)
        windows = _joined(grid, energy, np.zeros(len(grid) - 1, dtype=bool))
        seconds = windows.end - windows.start
        work, total = windows.sums(vm_seconds), windows.sums(all_seconds)
        watts = {}
        for component, joules in energy.items():
            used = windows.sums(joules)
            if target == "capacity":
                watts[component] = capacity_watts(used, seconds, work, self.node.cpus())
            elif reservation is None:
                raise RecordingError(
                    "the target marginal needs the host's idle power and the reserved part of the host"
                )
            elif component in reservation.idle_watts:
                idle = reservation.idle_watts[component]
                watts[component] = marginal_watts(used, seconds, work, total, idle, reservation.part)
        if not watts:
            known = ", ".join(energy)
            raise RecordingError(f"no idle power is known for {known}", document=self.recording.name)
        return self._result(windows, watts, f"differences of {names.NODE_JOULES} and {names.PROCESS_SECONDS}", ())

    def _repaired(self) -> HostWindows | None:
        """Return the watts of the target `kepler`, corrected for the lag of Kepler's CPU usage.

        Return None if there is no lag, or if the recording does not show it.
        """
        active = self.node.metric(names.NODE_ACTIVE_JOULES)
        parts = (active, self.node.metric(names.NODE_IDLE_JOULES), self.node.metric(names.CPU_INFO), self._processes())
        if active is None or any(part is None for part in parts):
            return None
        grid, energy = self.node.energy()
        zones = by_component(active)
        if not energy or energy.keys() != zones.keys() or len(grid) < 3:
            return None
        vm_seconds, all_seconds = self._cpu_seconds(grid)
        windows = _joined(grid, energy, np.zeros(len(grid) - 1, dtype=bool))
        seconds = windows.end - windows.start
        work, total = windows.sums(vm_seconds), windows.sums(all_seconds)
        # Kepler multiplies the energy of every zone by the same usage ratio to get the active energy. So one zone is
        # enough.
        zone = next(iter(energy))
        ratios = windows.sums(increases(zones[zone], grid)) / windows.sums(energy[zone])
        usage, lags = usage_of_windows(ratios, total / (self.node.cpus() * seconds))
        if not lags:
            return None
        watts = {
            component: kepler_watts(windows.sums(joules), seconds, usage, work, total)
            for component, joules in energy.items()
        }
        note = (
            "the host's Kepler is a release whose CPU usage lags by one window (0.10.0 to 0.11.4): the watts were "
            "calculated anew from the node's energy with the usage of the right window"
        )
        return self._result(windows, watts, "the node's active and idle energy, and CPU seconds", (note,))

    def _from_gauge(self, gauge: Metric) -> HostWindows:
        grid = np.unique(gauge.timestamps)
        zones = {zone: on_grid(metric, grid) for zone, metric in by_component(gauge).items()}
        new = np.zeros(len(grid), dtype=bool)
        for values in zones.values():
            new[1:] |= (values[1:] != values[:-1]) & np.isfinite(values[1:])
        ends = np.flatnonzero(new)
        windows = _Windows(grid, ends[:-1], int(ends[-1]) if len(ends) else 0)
        watts = {zone: values[ends[1:]] for zone, values in zones.items()}
        note = (
            f"the watts are values of the gauge {names.VM_WATTS}, which covers only Kepler's last window: they lack "
            f"the energy of windows that were not read. Record {names.VM_JOULES} to get all energy"
        )
        repeated = 1.0 - len(ends) / max(len(grid) - 1, 1)
        return self._result(windows, watts, f"values of {names.VM_WATTS}", (note,), repeated)

    def _cpu_seconds(self, grid: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the CPU seconds of the virtual machine and of all processes between timestamps."""
        if self.node.metric(names.PROCESS_SECONDS) is None:
            raise self.node.missing(names.PROCESS_SECONDS)
        own = self._processes()
        if own is None:
            raise RecordingError(
                f"no process with vm_id={quoted(self.vm)} in {names.PROCESS_SECONDS}", document=self.recording.name
            )
        return increases(own, grid, falls="reset"), self.node.cpu_seconds(grid)

    def _processes(self) -> Metric | None:
        """Return the CPU seconds of the virtual machine's processes; None if there are none."""
        return selected(self.node.metric(names.PROCESS_SECONDS), lambda labels: labels.get("vm_id") == self.vm)

    def _of_vm(self, metric: str) -> Metric | None:
        return selected(
            self.node.metric(metric),
            lambda labels: _id(labels) == _id(self.labels) and labels.get("state", names.RUNNING) == names.RUNNING,
        )

    def _result(
        self,
        windows: _Windows,
        watts: Mapping[str, FloatArray],
        basis: str,
        notes: tuple[str, ...],
        repeats: float | None = None,
    ) -> HostWindows:
        start, end = windows.start, windows.end
        if repeats is None:
            repeats = 1.0 - len(end) / max(windows.count, 1)
        kept, left_out = _usable(start, end, watts)
        if not kept.any():
            reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items()) or "constant energy"
            raise RecordingError(
                f"the power of {quoted(self.vm)} is not known between any two readings ({reasons})",
                document=self.recording.name,
            )
        return HostWindows(
            self.vm,
            start[kept],
            end[kept],
            {component: watts[component][kept] for component in in_component_order(watts)},
            basis,
            notes,
            left_out,
            repeats,
        )


def _usable(start: FloatArray, end: FloatArray, watts: Mapping[str, FloatArray]) -> tuple[BoolArray, dict[str, int]]:
    """Return whether each window can be used, shape (windows,), and the number of unusable windows by reason."""
    seconds = end - start
    unknown = ~np.any([np.isfinite(values) for values in watts.values()], axis=0)
    short = seconds < SHORTEST_WINDOW_SECONDS
    long = seconds > LONGEST_WINDOW * np.median(seconds) if len(seconds) else short
    reasons = {
        "shorter than 0.9 s": short,
        "gap in the recording": long & ~short,
        "a counter fell or is missing": unknown & ~short & ~long,
    }
    left_out = {reason: int(np.count_nonzero(wrong)) for reason, wrong in reasons.items() if wrong.any()}
    return ~(unknown | short | long), left_out


def _joined(grid: FloatArray, zones: Mapping[str, FloatArray], fell: BoolArray) -> _Windows:
    """Join each interval in which no energy changed with the next interval, unless a counter fell in the interval.

    If a counter of the node fell because Kepler was started again, the energy of the next windows is also unknown.
    """
    changed = np.zeros(len(grid) - 1, dtype=bool)
    restarted = np.zeros(len(grid) - 1, dtype=bool)
    for values in zones.values():
        changed |= ~(values == 0)
        restarted |= np.isnan(values) & ~fell
    for after in np.flatnonzero(restarted):
        for values in zones.values():
            values[after : after + 1 + WINDOWS_AFTER_START] = np.nan
    ends = np.flatnonzero(changed | fell) + 1
    first = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else np.empty(0, dtype=np.int64)
    return _Windows(grid, first, int(ends[-1]) if len(ends) else 0)


def _fell(metric: Metric, grid: FloatArray) -> BoolArray:
    """Return between which timestamps of `grid` a series of a metric fell, shape (timestamps − 1,)."""
    same = np.zeros(len(metric.values), dtype=bool)
    same[1:] = (metric.series[1:] == metric.series[:-1]) & (np.diff(metric.values) < 0)
    fell = np.zeros(len(grid) - 1, dtype=bool)
    fell[np.searchsorted(grid, metric.timestamps[same]) - 1] = True
    return fell


def _labels_of(recording: Recording, vm: str) -> Labels:
    """Return the labels of one series of the virtual machine.

    Raises `RecordingError` if no virtual machine or several virtual machines have the name `vm`.
    """
    found: dict[tuple[str, str, str], Labels] = {}
    known: Counter[str] = Counter()
    for name in (names.VM_JOULES, names.VM_WATTS, names.PROCESS_SECONDS):
        metric = recording.metrics.get(name)
        for labels in () if metric is None else metric.labels:
            known.update(word for word in (labels.get("vm_id"), labels.get("vm_name")) if word)
            if vm and vm in (labels.get("vm_id"), labels.get("vm_name")):
                found.setdefault((_id(labels), labels.get("instance", ""), labels.get("node_name", "")), labels)
        if found:
            break
    if not found:
        hint = close_matches(vm, known) if known else "the recording has no virtual machine (label vm_id)"
        raise RecordingError(f"no virtual machine {quoted(vm)}; {hint}", document=recording.name)
    if len(found) > 1:
        several = "; ".join(printable(" ".join(filter(None, key)), 80) for key in list(found)[:4])
        raise RecordingError(
            f"{quoted(vm)} names several virtual machines ({several}); give the vm_id, and a recording of one host",
            document=recording.name,
        )
    return next(iter(found.values()))


def _id(labels: Labels) -> str:
    return labels.get("vm_id", "")
