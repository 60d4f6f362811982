"""Facts about this machine: its description and, for a virtual machine, the hosts on which it may run."""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from kepler_core.errors import UsageError
from kepler_core.machine import MachineSpec
from kepler_profiler.formula import SMALL_THREADS, MachineDescription, describe
from kepler_profiler.machine import discover
from kepler_profiler.machine_description import MEASURED_VENDORS, host_of, vendor_of
from kepler_profiler.processors import (
    InstanceFamily,
    Processor,
    instance_type,
    lookup,
    processors,
    stated_instance_type,
)

log = logging.getLogger(__name__)

CLOUD_CHIPS = 2
"""Number of sockets that is assumed for a host whose size is not published. This number has hardly any effect on the
power of a thread."""
MINI_TDP_WATTS = 6.0
"""Thermal design power of processors of mini computers, e.g. Intel's N100."""
_FIRST_CLOUD_YEAR = 2014
WATCH_SECONDS = 30.0
"""Interval at which the meter checks whether this machine has changed, e.g. moved to another host."""
_DMI_BYTES = 200
_FINGERPRINT_BYTES = 512
"""Number of bytes at the beginning of /proc/cpuinfo that contain the vendor, family, model, name and stepping of the
first CPU."""
_NUMBERS = re.compile(r"family [0-9]+ model [0-9]+")
"""Pattern of a processor's name that consists of numbers, because the host hides the real name."""


@attrs.frozen
class ThisMachine:
    """The facts about this machine that can be found on the machine itself."""

    spec: MachineSpec
    virtual: str | None
    """The evidence that the machine is virtual; None if there is no evidence."""
    hosts: tuple[MachineDescription, ...]
    """Descriptions of the physical machines that this machine (or its host) may be; empty if no similar machine was
    measured."""
    description: str
    """Description of the probable machine as text for people, e.g. "2 of 384 threads of a host with …"."""
    instance: str | None = None
    """Name of the cloud instance type."""

    @property
    def shares(self) -> tuple[float, float]:
        """The smallest and the largest possible fraction of the host's threads that this machine has.

        Both numbers are 1 if the machine is not virtual.
        """
        if self.virtual is None or not self.spec.cores or not self.hosts:
            return 1.0, 1.0
        parts = [min(self.spec.cores / host.threads, 1.0) for host in self.hosts]
        return min(parts), max(parts)


class MachineWatch:
    """Detects changes of this machine, e.g. if a virtual machine moves to another host or gets more CPUs."""

    def __init__(
        self, root: Path, identify: Callable[[], ThisMachine], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`identify` returns the facts about the machine. `clock` returns monotonic seconds."""
        self._root = root
        self._identify = identify
        self._clock = clock
        self._fingerprint = self._read_fingerprint()
        self._checked_at = clock()
        self.machine = identify()

    def has_changed(self) -> bool:
        """Return whether the machine has changed; if so, replace `machine`.

        The files in /proc and /sys are read at most every `WATCH_SECONDS`.
        """
        now = self._clock()
        if now - self._checked_at < WATCH_SECONDS:
            return False
        self._checked_at = now
        fingerprint = self._read_fingerprint()
        if fingerprint == self._fingerprint:
            return False
        self._fingerprint = fingerprint
        machine = self._identify()
        if machine == self.machine:
            return False
        log.warning("this machine has changed; it is now: %s", machine.description)
        self.machine = machine
        return True

    def _read_fingerprint(self) -> tuple[bytes, ...]:
        """Return the first lines of /proc/cpuinfo without clock rates, and the CPUs that are online."""
        cpuinfo = _first_bytes(self._root / "proc/cpuinfo", _FINGERPRINT_BYTES)
        lines = [line for line in cpuinfo.splitlines() if not line.lower().startswith((b"cpu mhz", b"bogomips"))]
        return (*lines, _first_bytes(self._root / "sys/devices/system/cpu/online", _FINGERPRINT_BYTES))


def this_machine(root: Path, spec: MachineSpec | None = None, instance: str | None = None) -> ThisMachine:
    """Return the facts about the machine whose folders proc and sys are in `root`.

    `spec` is a description that replaces the discovered description. `instance` is the name of the cloud instance type.
    Raises `UsageError` if the table of instance types does not contain this name.
    """
    discovery = discover(root)
    spec = spec or discovery.spec
    family = None
    if instance is not None:
        family = stated_instance_type(instance)
        _check_vendor(spec, family, instance)
    virtual = discovery.virtual or (f"instance {instance}" if instance else None)
    if virtual is None:
        return _physical(spec)
    if family is None:
        instance = _instance_in_dmi(root)
        family = None if instance is None else instance_type(instance)
    return _guest(spec, virtual, instance, family)


def _check_vendor(spec: MachineSpec, family: InstanceFamily, instance: str) -> None:
    """Raise `UsageError` if this machine and the instance type's hosts have processors of different vendors."""
    vendors = {row.vendor for name in family.processors if (row := lookup(name)) is not None}
    own = vendor_of(spec)
    if own in ("intel", "amd") and vendors and own not in vendors:
        raise UsageError(
            f"--instance {instance[:60]}: its hosts have {' or '.join(family.processors[:3])}, but this machine has a "
            f"processor of {own.upper() if own == 'amd' else own.capitalize()}"
        )


def _physical(spec: MachineSpec) -> ThisMachine:
    processor = _processor(spec)
    name = processor.model if processor else spec.processor or "an unknown processor"
    tdp = f", {processor.tdp_watts:g} W TDP" if processor and processor.tdp_watts else ""
    chips = f"{spec.chips} × " if spec.chips and spec.chips > 1 else ""
    memory = f", {spec.memory} GiB" if spec.memory else ""
    about = f"{chips}{name}{tdp}, {spec.cores or '?'} threads{memory}"
    return ThisMachine(spec, None, _candidates(spec, processor), about)


def _candidates(spec: MachineSpec, processor: Processor | None) -> tuple[MachineDescription, ...]:
    """Return the descriptions that may be right for this machine, for the machine formula.

    The formula was fitted to servers and a few desktop machines. A small machine with an unknown x86 processor may be a
    server, or a mini computer with a tenth of the power. For such a machine, the function returns both descriptions.
    Small boards with other processors draw even less power, and none was measured. For such a board, the function
    returns nothing.
    """
    host = describe(spec, processor)
    if host is None:
        return ()
    if host.vendor not in MEASURED_VENDORS and host.threads < SMALL_THREADS:
        return ()
    if processor is None and host.threads < SMALL_THREADS:
        return host, attrs.evolve(host, tdp_watts=MINI_TDP_WATTS, client=True)
    return (host,)


def _guest(spec: MachineSpec, virtual: str, instance: str | None, family: InstanceFamily | None) -> ThisMachine:
    own = f"{spec.cores or '?'} vCPUs"
    kind = "" if instance is None else f"{instance}: "
    if family is not None and (host := host_of(family)) is not None:
        names = " or ".join(family.processors[:3])
        about = f"{kind}{own} of a host with {host.threads} threads ({names})"
        return ThisMachine(spec, virtual, (host,), about, instance)
    processor = _processor(spec)
    if processor is not None and processor.threads:
        host = _host_with(processor)
        about = f"{kind}{own} of a host with {processor.model}"
        about += "" if host.chips == 1 else f"; {host.chips} sockets are assumed"
        return ThisMachine(spec, virtual, (host,), about, instance)
    rows, about = _possible_processors(spec, family)
    hosts = tuple(_host_with(row) for row in rows)
    return ThisMachine(spec, virtual, hosts, f"{kind}{own} of a host with {about}", instance)


def _possible_processors(spec: MachineSpec, family: InstanceFamily | None) -> tuple[list[Processor], str]:
    """Return the processors that the host of a virtual machine may have, and a description of them."""
    servers = [row for row in processors() if not row.client and row.threads and row.tdp_watts]
    if family is not None:
        rows = [row for name in family.processors if (row := lookup(name)) is not None and row.threads]
        if rows:
            return rows, " or ".join(row.model for row in rows[:3])
    processor = _processor(spec) or _by_numbers(spec)
    if processor is not None:
        rows = _large(row for row in servers if row.architecture == processor.architecture)
        if rows:
            if _NUMBERS.search(processor.model):
                return rows, f"a processor of the kind {processor.architecture} (the host hides its name)"
            return rows, f"{processor.model}, whose size is not published"
    vendor = vendor_of(spec)
    recent = [row for row in servers if (row.year or 0) >= _FIRST_CLOUD_YEAR]
    rows = _large(row for row in recent if row.vendor == vendor) or _large(recent)
    return rows, f"an unknown server processor{f' of {vendor.upper()}' if vendor in ('intel', 'amd') else ''}"


def _large(candidates: Iterable[Processor]) -> list[Processor]:
    """Return the processors with at least the median number of threads, because hosts of virtual machines are large."""
    rows = list(candidates)
    if not rows:
        return []
    median = statistics.median(row.threads or 0 for row in rows)
    return [row for row in rows if (row.threads or 0) >= median]


def _host_with(processor: Processor) -> MachineDescription:
    """Return the description of a host with this processor.

    Cloud hosts have two sockets; desktops and laptops have one.
    """
    assert processor.threads is not None
    chips = 1 if processor.client else CLOUD_CHIPS
    return MachineDescription(
        threads=processor.threads * chips,
        cores=None if processor.cores is None else processor.cores * chips,
        chips=chips,
        tdp_watts=processor.tdp_watts,
        year=processor.year,
        vendor=processor.vendor,
        client=processor.client,
    )


def _processor(spec: MachineSpec) -> Processor | None:
    return None if spec.processor is None else lookup(spec.processor)


def _by_numbers(spec: MachineSpec) -> Processor | None:
    """Return a processor from the table with the same family and model numbers; None if there is none.

    The stepping may be different.
    """
    family, separator, _ = (spec.processor or "").partition("_stepping_")
    if not separator:
        return None
    name = f"{family}_".replace("_", " ")
    return next((row for row in processors() if row.model.casefold().startswith(name)), None)


def _instance_in_dmi(root: Path) -> str | None:
    """Return the name of the instance type from the DMI tables of an Amazon machine; None on other machines."""
    folder = root / "sys/class/dmi/id"
    vendor, product = (
        _first_bytes(folder / name, _DMI_BYTES).decode(errors="replace").strip()
        for name in ("sys_vendor", "product_name")
    )
    return product if vendor == "Amazon EC2" and product else None


def _first_bytes(path: Path, limit: int) -> bytes:
    """Return the first bytes of a file; no bytes if the file cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(limit)
    except OSError:
        return b""
