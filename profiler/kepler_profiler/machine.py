"""Discover the machine that this process runs on, from /proc, /sys and DMI.

An attribute that is not known is left out, with the reason. So are attributes that a virtual machine
shows but that are not true of the hardware, such as a socket for every virtual CPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from kepler_core.machine import MachineSpec
from kepler_profiler.processor_names import IMPLEMENTERS, arm_processor_name, processor_name

_KIB_PER_GIB = 2**20
_KHZ_PER_100_MHZ = 100_000
_MAX_NUMBER = 10**9
_NAME_CHARACTERS = 200
_CPU_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_CLOUDS = re.compile(
    r"qemu|kvm|vmware|virtualbox|xen|bochs|microsoft corporation|amazon ec2|google|openstack|parallels|bhyve"
    r"|firecracker",
    re.IGNORECASE,
)
# cloud products that are bare metal
_METAL = re.compile(r"\.metal", re.IGNORECASE)


@attrs.frozen
class Discovery:
    """A discovered machine: its attributes, where they were read, and why others are not known."""

    spec: MachineSpec
    found_in: dict[str, str]
    """Attribute -> the file it was read from."""
    unknown: dict[str, str]
    """Attribute -> why it is not known."""
    virtual: str | None
    """The evidence that this is a virtual machine; None if there is none."""


def discover(root: str | Path = "/") -> Discovery:
    """Return the machine that this process runs on. `root` is the folder that contains proc and sys."""
    return _Reader(Path(root)).discovery()


class _Reader:
    """A reader of a machine's attributes, which records the origin of each or why it is not known."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cpus = list(_processors(self._text("proc/cpuinfo")))
        self._numbers = _cpu_list(self._text("sys/devices/system/cpu/online")) or list(range(len(self._cpus)))
        self._found_in: dict[str, str] = {}
        self._unknown: dict[str, str] = {}
        self.virtual = self._hypervisor()

    def discovery(self) -> Discovery:
        spec = MachineSpec(
            processor=self._processor(),
            vendor=self._vendor(),
            cores=self._cores(),
            chips=self._chips(),
            threads_per_core=self._threads_per_core(),
            memory=self._memory(),
            frequency=self._frequency(),
        )
        return Discovery(spec, self._found_in, self._unknown, self.virtual)

    # --- reading ---

    def _text(self, path: str) -> str:
        try:
            return (self._root / path).read_bytes().decode(errors="replace")
        except OSError:
            return ""  # each attribute gives its own reason why it is not known

    def _number(self, path: str) -> int | None:
        try:
            number = int(self._text(path).strip())
        except ValueError:
            return None
        return number if abs(number) <= _MAX_NUMBER else None

    def _first(self, key: str) -> str:
        return next((cpu[key] for cpu in self._cpus if cpu.get(key)), "")

    def _hypervisor(self) -> str | None:
        if "hypervisor" in self._first("flags").split():
            return "the CPU says so (flag hypervisor)"
        if kind := self._text("sys/hypervisor/type").strip():
            return f"/sys/hypervisor/type: {kind}"
        names = [self._text(f"sys/class/dmi/id/{name}").strip() for name in ("sys_vendor", "product_name")]
        if _CLOUDS.search(" ".join(names)) and not _METAL.search(names[1]):
            return f"DMI: {' '.join(names)}"
        if (self._root / "sys/firmware/devicetree/base/hypervisor").exists():
            return "the device tree has a hypervisor"
        return None

    # --- attributes ---

    def _processor(self) -> str | None:
        model = self._first("model name") or self._first("Processor") or self._first("cpu model")
        model = model[:_NAME_CHARACTERS]
        if model and (name := processor_name(model)) is not None:
            self._found_in["processor"] = f"/proc/cpuinfo: {model}"
            return name
        implementer, part = self._hex("CPU implementer"), self._hex("CPU part")
        if implementer is not None and part is not None:
            parts = {cpu.get("CPU part") for cpu in self._cpus}
            if len(parts) > 1:
                self._unknown["processor"] = f"several kinds of cores: parts {', '.join(sorted(filter(None, parts)))}"
                return None
            if (name := arm_processor_name(implementer, part)) is not None:
                self._found_in["processor"] = f"/proc/cpuinfo: implementer {implementer:#x}, part {part:#x}"
                return name
            self._unknown["processor"] = f"implementer {implementer:#x}, part {part:#x} is not known here"
            return None
        self._unknown["processor"] = f"{model!r} names no processor" if model else "/proc/cpuinfo names none"
        return None

    def _hex(self, key: str) -> int | None:
        try:
            return int(self._first(key), 16)
        except ValueError:
            return None

    def _vendor(self) -> str | None:
        if vendor := self._first("vendor_id")[:_NAME_CHARACTERS]:
            self._found_in["vendor"] = "/proc/cpuinfo"
            return vendor.casefold()
        implementer = self._hex("CPU implementer")
        if implementer is not None and implementer in IMPLEMENTERS:
            self._found_in["vendor"] = f"/proc/cpuinfo: implementer {implementer:#x}"
            return IMPLEMENTERS[implementer]
        self._unknown["vendor"] = "/proc/cpuinfo names none"
        return None

    def _cores(self) -> int | None:
        if self._numbers:
            online = bool(self._text("sys/devices/system/cpu/online"))
            self._found_in["cores"] = "/sys/devices/system/cpu/online" if online else "/proc/cpuinfo"
            return len(self._numbers)
        self._unknown["cores"] = "neither /sys/devices/system/cpu/online nor /proc/cpuinfo can be read"
        return None

    def _chips(self) -> int | None:
        packages = {
            package
            for number in self._numbers
            if (package := self._number(f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id")) is not None
        }
        where = "/sys/devices/system/cpu/cpu*/topology"
        if not packages:
            ids = (cpu.get("physical id", "") for cpu in self._cpus)
            packages = {int(package_id) for package_id in ids if _CPU_RANGE.fullmatch(package_id)}
            where = "/proc/cpuinfo: physical id"
        if not packages or min(packages) < 0:
            self._unknown["chips"] = "the kernel does not say which socket a CPU is in"
            return None
        if self.virtual is not None and len(packages) == len(self._numbers) > 1:
            self._unknown["chips"] = f"a virtual machine that shows a socket for each of its {len(packages)} CPUs"
            return None
        self._found_in["chips"] = where
        return len(packages)

    def _threads_per_core(self) -> int | None:
        sizes = {
            len(siblings)
            for number in self._numbers
            if (siblings := _cpu_list(self._text(f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")))
        }
        if len(sizes) == 1:
            self._found_in["threads_per_core"] = "/sys/devices/system/cpu/cpu*/topology"
            return sizes.pop()
        if sizes:
            kinds = " and ".join(map(str, sorted(sizes)))
            self._unknown["threads_per_core"] = f"hybrid: cores with {kinds} threads"
        else:
            self._unknown["threads_per_core"] = "the kernel does not say which CPUs share a core"
        return None

    def _memory(self) -> int | None:
        total = re.search(r"^MemTotal:\s+([0-9]{1,15}) kB", self._text("proc/meminfo"), re.MULTILINE)
        gib = int(total[1]) // _KIB_PER_GIB if total else 0
        if not gib:
            self._unknown["memory"] = "less than 1 GiB" if total else "/proc/meminfo has no MemTotal"
            return None
        self._found_in["memory"] = "/proc/meminfo: MemTotal"
        return gib

    def _frequency(self) -> int | None:
        highest = max(
            (self._number(f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq") or 0 for n in self._numbers),
            default=0,
        )
        if round(highest / _KHZ_PER_100_MHZ) > 0:
            self._found_in["frequency"] = "/sys/devices/system/cpu/cpu*/cpufreq/cpuinfo_max_freq"
            return round(highest / _KHZ_PER_100_MHZ) * 100
        shown = self._first("cpu MHz")
        now = f" (/proc/cpuinfo has {shown} MHz, which is not the highest)" if shown else ""
        why = "a virtual machine does not show its clock" if self.virtual else "no cpufreq driver"
        self._unknown["frequency"] = why + now
        return None


def _processors(text: str) -> Iterator[dict[str, str]]:
    """Yield the entries of each block of /proc/cpuinfo: blocks of CPUs first, then others, as on arm."""
    rest: list[dict[str, str]] = []
    for block in text.split("\n\n"):
        lines = (line.partition(":") for line in block.splitlines() if ":" in line)
        entries = {key.strip(): value.strip() for key, _, value in lines}
        if "processor" in entries:
            yield entries
        elif entries:
            rest.append(entries)
    yield from rest


def _cpu_list(text: str) -> list[int]:
    """Return the numbers in a list like "0-3,8"; an empty list if the text is not such a list."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        bounds = _CPU_RANGE.fullmatch(part)
        if bounds is None:
            return []
        numbers.update(range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1))
    return sorted(numbers)
