"""What the meter knows about this machine: its description, and on a virtual machine the hosts that it may be on."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable
from pathlib import Path

import attrs

from kepler_core.errors import UsageError, close_matches
from kepler_core.machine import MachineSpec
from kepler_profiler.formula import MachineDescription, describe
from kepler_profiler.machine import discover
from kepler_profiler.machine_description import host_of, vendor_of
from kepler_profiler.processors import InstanceFamily, Processor, instance_type, instances, lookup, processors

CLOUD_CHIPS = 2
"""Assumed number of sockets of a host whose size is not published. The power for each thread hardly depends on it."""
_FIRST_CLOUD_YEAR = 2014
_DMI_BYTES = 200
_NUMBERED_PROCESSOR = re.compile(r"(intel|amd)_family_([0-9]+)_model_([0-9]+)_stepping_([0-9]+)")
_ARCHITECTURES = {
    ("intel", 6, 63): ("haswell-ep",), ("intel", 6, 79): ("broadwell-ep",),
    ("intel", 6, 85): ("skylake-sp", "cascadelake-sp", "cooperlake-sp"), ("intel", 6, 106): ("icelake-sp",),
    ("intel", 6, 143): ("sapphirerapids",), ("intel", 6, 207): ("emeraldrapids",),
    ("intel", 6, 173): ("graniterapids",), ("intel", 6, 175): ("sierraforest",), ("amd", 23, 1): ("zen",),
    ("amd", 23, 49): ("zen2",), ("amd", 25, 1): ("zen3",), ("amd", 25, 17): ("zen4",), ("amd", 25, 160): ("zen4c",),
    ("amd", 26, 2): ("zen5",), ("amd", 26, 17): ("zen5c",),
}  # fmt: skip
"""(vendor, family, model) of a CPU that hides its name -> architectures (Linux, intel-family.h; AMD's revision guides).
"""


@attrs.frozen
class ThisMachine:
    """A machine, as far as it knows itself."""

    spec: MachineSpec
    virtual: str | None
    """The evidence that the machine is virtual; None if there is none."""
    hosts: tuple[MachineDescription, ...]
    """The physical machines that this machine, or its host, may be. Empty: not even the number of CPUs is known."""
    description: str
    """What the machine is thought to be, for people: "2 of 384 threads of a host with …"."""
    instance: str | None = None
    """Name of the cloud instance type."""

    @property
    def shares(self) -> tuple[float, float]:
        """The smallest and largest part of the host's threads that this machine has; 1 if it is not virtual."""
        if self.virtual is None or not self.spec.cores or not self.hosts:
            return 1.0, 1.0
        parts = [min(self.spec.cores / host.threads, 1.0) for host in self.hosts]
        return min(parts), max(parts)


def this_machine(root: Path, spec: MachineSpec | None = None, instance: str | None = None) -> ThisMachine:
    """Return what is known about the machine whose folders proc and sys are in `root`.

    `spec` is a description that replaces the discovered one, and `instance` the name of the cloud instance type. Raises
    `UsageError` if the table of instances does not have this name.
    """
    discovery = discover(root)
    spec = spec or discovery.spec
    family = None
    if instance is not None:
        family = instance_type(instance)
        if family is None:
            known = [row.family for row in instances()]
            raise UsageError(f"--instance {instance[:60]}: not in the table; {close_matches(instance[:60], known)}")
    virtual = discovery.virtual or (f"instance {instance}" if instance else None)
    if virtual is None:
        return _physical(spec)
    if family is None:
        instance = _instance_in_dmi(root)
        family = None if instance is None else instance_type(instance)
    return _guest(spec, virtual, instance, family)


def _physical(spec: MachineSpec) -> ThisMachine:
    processor = _processor(spec)
    host = describe(spec, processor)
    name = processor.model if processor else spec.processor or "an unknown processor"
    tdp = f", {processor.tdp_watts:g} W TDP" if processor and processor.tdp_watts else ""
    chips = f"{spec.chips} × " if spec.chips and spec.chips > 1 else ""
    memory = f", {spec.memory} GiB" if spec.memory else ""
    return ThisMachine(
        spec, None, () if host is None else (host,), f"{chips}{name}{tdp}, {spec.cores or '?'} threads{memory}"
    )


def _guest(spec: MachineSpec, virtual: str, instance: str | None, family: InstanceFamily | None) -> ThisMachine:
    own = f"{spec.cores or '?'} vCPUs"
    kind = "" if instance is None else f"{instance}: "
    if family is not None and (host := host_of(family)) is not None:
        names = " or ".join(family.processors[:3])
        about = f"{kind}{own} of a host with {host.threads} threads ({names})"
        return ThisMachine(spec, virtual, (host,), about, instance)
    processor = _processor(spec)
    if processor is not None and processor.threads:
        about = f"{kind}{own} of a host with {processor.model}; {CLOUD_CHIPS} sockets are assumed"
        return ThisMachine(spec, virtual, (_host_with(processor),), about, instance)
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
    match = _NUMBERED_PROCESSOR.fullmatch(spec.processor or "")
    if match is not None:
        names = _ARCHITECTURES.get((match[1], int(match[2]), int(match[3])), ())
        rows = _large(row for row in servers if row.architecture in names)
        if rows:
            return rows, f"a processor of the kind {' or '.join(names)} (the host hides its name)"
    vendor = vendor_of(spec)
    recent = [row for row in servers if (row.year or 0) >= _FIRST_CLOUD_YEAR]
    rows = _large(row for row in recent if row.vendor == vendor) or _large(recent)
    return rows, f"an unknown server processor{f' of {vendor.upper()}' if vendor in ('intel', 'amd') else ''}"


def _large(candidates: Iterable[Processor]) -> list[Processor]:
    """Return the processors with at least the median number of threads: hosts of virtual machines are large."""
    rows = list(candidates)
    if not rows:
        return []
    median = statistics.median(row.threads or 0 for row in rows)
    return [row for row in rows if (row.threads or 0) >= median]


def _host_with(processor: Processor) -> MachineDescription:
    assert processor.threads is not None
    return MachineDescription(
        threads=processor.threads * CLOUD_CHIPS,
        cores=None if processor.cores is None else processor.cores * CLOUD_CHIPS,
        chips=CLOUD_CHIPS,
        tdp_watts=processor.tdp_watts,
        year=processor.year,
        vendor=processor.vendor,
        client=processor.client,
    )


def _processor(spec: MachineSpec) -> Processor | None:
    return None if spec.processor is None else lookup(spec.processor)


def _instance_in_dmi(root: Path) -> str | None:
    """Return the name of the instance type that Amazon's machines have in their DMI tables; None elsewhere."""
    texts = []
    for name in ("sys_vendor", "product_name"):
        try:
            with open(root / "sys/class/dmi/id" / name, "rb") as file:
                texts.append(file.read(_DMI_BYTES).decode(errors="replace").strip())
        except OSError:
            return None
    return texts[1] if texts[0] == "Amazon EC2" and texts[1] else None
