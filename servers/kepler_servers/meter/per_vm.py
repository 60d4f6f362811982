"""The output `per-vm`: for each QEMU guest, it writes a folder tree with the guest's share of the host's power."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import attrs

from kepler_core.errors import OutputError
from kepler_core.messages import reason_of
from kepler_core.metering import Output, Power, Reading
from kepler_servers.meter.kepler_names import usage_ratio
from kepler_servers.meter.qemu_guests import Guest, GuestScanner
from kepler_servers.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)


@attrs.define
class _GuestTree:
    """The folder tree of one guest, and the guest's energy counters."""

    guest: Guest
    output: Output
    joules: dict[str, float]
    share: float = 0.0
    """Fraction of the host's power that the guest gets until the next reading."""
    problem: bool = False
    """Whether the latest write to the guest's folder has failed."""


class PerVmOutput(Output):
    """Output that writes a folder tree in the form of `/sys` for each QEMU guest. The guest can mount its tree.

    The shares of all guests add up to the host's power, including its idle power. The guests share the idle part in
    proportion to their numbers of virtual CPUs, and the rest in proportion to their CPU time. If the reading has the
    idle power of the host, the idle part is this power. Otherwise, it is the host's power times the fraction of time in
    which the CPUs were idle, as in Kepler.
    """

    advance_seconds: ClassVar[float | None] = 0.1

    def __init__(self, folder: str, root: str = "/") -> None:
        """`folder` gets a subfolder for each guest. `root` is the folder that contains `proc`."""
        self.folder = Path(folder)
        self._scanner = GuestScanner(root)
        self._trees: dict[str, _GuestTree] = {}
        """What is published for each guest, by the name of the guest's folder."""
        self._host: dict[str, float] = {}
        """Values of the host's energy counters in joules, at the latest call of `write` or `advance`."""
        self._log = RateLimitedLog(log)

    def open(self) -> None:
        """Create the folder, and withdraw the values that a killed meter has left in the folder.

        Raises `OutputError` if the folder cannot be written, or if another meter publishes there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in self.folder.iterdir() if (path / "class" / "powercap").is_dir())
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {reason_of(error)}") from error
        for name in names:
            output = self._output(name)
            output.open()
            output.close()

    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        self._divide(joules)
        try:
            guests = self._scanner.guests()
        except OSError as error:
            self._withdraw_all("the processes of this host cannot be listed")
            raise OutputError(f"cannot list the processes of this host: {reason_of(error)}") from error
        before = {tree.guest.pid: tree.guest for tree in self._trees.values()}
        self._reconcile(guests)
        current = [tree.guest for tree in self._trees.values()]
        shares = guest_shares(current, before, idle_part(reading))
        for tree, share in zip(self._trees.values(), shares, strict=True):
            tree.share = share
            part = _share_of(reading, share, tree.guest)
            for component in part.power:
                tree.joules.setdefault(component, 0.0)
            try:
                tree.output.write(part, tree.joules)
                tree.problem = False
            except OutputError as error:
                self._report(tree, error)

    def advance(self, joules: Mapping[str, float]) -> None:
        self._divide(joules)
        for tree in self._trees.values():
            if not tree.problem:
                try:
                    tree.output.advance(tree.joules)
                except OutputError as error:
                    self._report(tree, error)

    def withdraw(self, reason: str) -> None:
        self._withdraw_all(reason)

    def close(self) -> None:
        for tree in self._trees.values():
            tree.output.close()
        self._trees.clear()

    def _divide(self, joules: Mapping[str, float]) -> None:
        """Distribute the energy that the host has used since the previous call: add each guest's share to its counters.

        So the counters of all guests together rise as much as the host's counters.
        """
        for component, total in joules.items():
            increase = total - self._host.get(component, total)
            for tree in self._trees.values():
                tree.joules[component] = tree.joules.get(component, 0.0) + tree.share * max(increase, 0.0)
        self._host = dict(joules)

    def _reconcile(self, guests: Sequence[Guest]) -> None:
        """Close the outputs of guests that have ended, and open outputs for new guests."""
        names = _folder_names(guests)
        for name, tree in list(self._trees.items()):
            if name not in names or not _is_same(names[name], tree.guest):
                with contextlib.suppress(OutputError):
                    tree.output.advance(tree.joules)  # if the guest starts again, its counters continue here
                tree.output.close()
                del self._trees[name]
                log.info("guest %s (process %d) has ended", name, tree.guest.pid)
        for name, guest in names.items():
            if name in self._trees:
                self._trees[name].guest = guest
                continue
            try:
                self._trees[name] = self._open_tree(name, guest)
            except OutputError as error:
                self._log.log(f"guest {name} gets no power: {error}")
            else:
                log.info("publishing the power of guest %s (process %d, %d CPUs)", name, guest.pid, guest.cpus)

    def _open_tree(self, name: str, guest: Guest) -> _GuestTree:
        output = self._output(name)
        joules = dict(output.restore())
        output.open()
        return _GuestTree(guest, output, joules)

    def _output(self, name: str) -> Output:
        """Return an output that writes into the subfolder `name`, for one guest."""
        from kepler_core.plugins.registry import outputs  # the import takes 0.3 s, and most machines have no guests

        # The files have the names that Scaphandre uses. In the guest, a meter (source `provided`) or Scaphandre itself
        # can read them.
        arguments = {"root": str(self.folder / name), "scaphandre": True}
        return outputs.create("kepler-core:powercap", arguments)

    def _withdraw_all(self, reason: str) -> None:
        self._host = {}
        for tree in self._trees.values():
            with contextlib.suppress(OutputError):
                tree.output.withdraw(reason)

    def _report(self, tree: _GuestTree, error: OutputError) -> None:
        tree.problem = True
        self._log.log(f"guest {tree.guest.name}: {error}")


def idle_part(reading: Reading) -> float:
    """Return the idle part of the host's power, as a fraction. The guests share it by their numbers of virtual CPUs."""
    watts = reading.power[reading.main].watts
    if reading.idle is not None and watts > 0:
        return min(max(reading.idle.watts / watts, 0.0), 1.0)
    ratio = usage_ratio(reading)
    return 1.0 if ratio is None else 1.0 - ratio


def guest_shares(guests: Sequence[Guest], before: Mapping[int, Guest], idle: float) -> list[float]:
    """Return each guest's share of the host's power, from 0 to 1. The sum of the shares is 1.

    `before` has the guests at the previous reading, by process number. The guests share the fraction `idle` of the
    power in proportion to their numbers of virtual CPUs. They share the rest in proportion to their CPU time since the
    previous reading.
    """
    used = []
    for guest in guests:
        earlier = before.get(guest.pid, guest)
        used.append(max(guest.cpu_seconds - earlier.cpu_seconds, 0.0) if _is_same(earlier, guest) else 0.0)
    total_used, total_cpus = sum(used), sum(guest.cpus for guest in guests)
    if total_used == 0:
        idle = 1.0
    return [
        idle * guest.cpus / total_cpus + ((1 - idle) * seconds / total_used if total_used else 0.0)
        for guest, seconds in zip(guests, used, strict=True)
    ]


def _share_of(reading: Reading, share: float, guest: Guest) -> Reading:
    """Return the reading of a guest, whose power is a share of the host's power."""
    power = {
        component: Power(share * watts.watts, share * watts.lower, share * watts.upper)
        for component, watts in reading.power.items()
    }
    description = f"share of guest {guest.name} of the host's power: {reading.provenance.description}"
    provenance = attrs.evolve(reading.provenance, description=description)
    return attrs.evolve(reading, power=power, provenance=provenance, idle=None, full=None, idle_share="reservation")


def _is_same(guest: Guest, other: Guest) -> bool:
    return (guest.pid, guest.started) == (other.pid, other.started)


def _folder_names(guests: Sequence[Guest]) -> dict[str, Guest]:
    """Return the guests by folder name.

    If several guests have the same name, the process number is appended to all but the first.
    """
    names: dict[str, Guest] = {}
    for guest in guests:
        names[guest.name if guest.name not in names else f"{guest.name}-{guest.pid}"] = guest
    return names
