"""Discover the machine that this process runs on, from /proc, /sys and DMI.

An attribute that is not known is left out, and the reason is recorded. In a virtual machine, attributes that differ
from the hardware are left out, too. For example, many virtual machines show a socket for every virtual CPU.
"""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from kepler_core.machine import MachineSpec
from kepler_core.processor_names import IMPLEMENTERS, arm_processor_name, processor_name, x86_processor_name
from kepler_profiler.cpuinfo import cpu_list, parse_cpuinfo

_KIB_PER_GIB = 2**20
_KHZ_PER_100_MHZ = 100_000
_MAX_NUMBER = 10**9
_NAME_CHARACTERS = 200
_MAX_DEVICE_TREE_CPUS = 1024
_PACKAGE = re.compile(r"[0-9]{1,9}")
_DEVICE_TREE = "sys/firmware/devicetree/base"
_CLOUDS = re.compile(
    r"qemu|kvm|vmware|virtualbox|xen|bochs|microsoft corporation|amazon ec2|google|openstack|parallels|bhyve"
    r"|firecracker",
    re.IGNORECASE,
)
# names of virtual machines in device trees, e.g. "linux,dummy-virt" and "riscv-virtio" of QEMU and Firecracker, and
# "xen,xenvm" of Xen
_VIRTUAL_BOARDS = re.compile(r"qemu|dummy-virt|riscv-virtio|xen", re.IGNORECASE)
# the line that names the hypervisor of an s390 machine, e.g. "VM00 Control Program: KVM/Linux"
_S390_HYPERVISOR = re.compile(r"^VM[0-9]{2} Control Program:(.*)$", re.MULTILINE)
# names of CPU models that hypervisors invent; the numbers of the family, model and stepping are invented, too
_EMULATED = re.compile(r"qemu|virtual|common|kvm|tcg", re.IGNORECASE)
# names of cloud products that are bare metal, not virtual machines
_METAL = re.compile(r"\.metal", re.IGNORECASE)


@attrs.frozen
class Discovery:
    """A discovered machine: the known attributes with the files they were read from, and the unknown attributes."""

    spec: MachineSpec
    found_in: dict[str, str]
    """The files from which attributes were read, by the name of the attribute."""
    unknown: dict[str, str]
    """The reasons why attributes are not known, by the name of the attribute."""
    virtual: str | None
    """The evidence that the machine is virtual; None if there is no evidence."""


def discover(root: str | Path = "/") -> Discovery:
    """Return the machine that this process runs on. `root` is the folder that contains the folders proc and sys."""
    return _Reader(Path(root)).discovery()


class _Reader:
    """A reader of a machine's attributes. It records the file of each attribute, or why the attribute is not known."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._cpuinfo = parse_cpuinfo(self._text("proc/cpuinfo"))
        self._numbers = cpu_list(self._text("sys/devices/system/cpu/online")) or list(self._cpuinfo.numbers)
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
            return ""  # the caller records why the attribute is not known

    def _number(self, path: str) -> int | None:
        try:
            number = int(self._text(path).strip())
        except ValueError:
            return None
        return number if abs(number) <= _MAX_NUMBER else None

    def _hypervisor(self) -> str | None:
        if "hypervisor" in self._cpuinfo.first("flags").split():
            return "the CPU says so (flag hypervisor)"
        if kind := self._text("sys/hypervisor/type").strip():
            return f"/sys/hypervisor/type: {kind}"
        names = [self._text(f"sys/class/dmi/id/{name}").strip() for name in ("sys_vendor", "product_name")]
        if _CLOUDS.search(" ".join(names)) and not _METAL.search(names[1]):
            return f"DMI: {' '.join(names)}"
        if any((self._root / tree / "hypervisor").exists() for tree in (_DEVICE_TREE, "proc/device-tree")):
            return "the device tree has a hypervisor"
        boards = self._text(f"{_DEVICE_TREE}/compatible") + self._cpuinfo.first("machine")
        if board := _VIRTUAL_BOARDS.search(boards):
            return f"the device tree describes a virtual machine ({board[0]})"
        if self._cpuinfo.first("platform").casefold() == "pseries":
            return "/proc/cpuinfo: platform pSeries, a partition of an IBM Power machine"
        sysinfo = self._text("proc/sysinfo")
        if program := _S390_HYPERVISOR.search(sysinfo):
            return f"/proc/sysinfo: {program[1].strip()[:_NAME_CHARACTERS]}"
        if "LPAR Number:" in sysinfo:
            return "/proc/sysinfo: a partition (LPAR) of an IBM Z machine"
        return None

    # --- attributes ---

    def _processor(self) -> str | None:
        model = self._cpuinfo.first("model name", "Model Name", "Processor", "cpu model", "uarch", "cpu")[
            :_NAME_CHARACTERS
        ]
        if model and (name := processor_name(model)) is not None:
            return self._named(name, f"/proc/cpuinfo: {model}")
        implementer, part = _hex(self._cpuinfo.first("CPU implementer")), _hex(self._cpuinfo.first("CPU part"))
        if implementer is not None and part is not None:
            parts = {number for cpu in self._cpuinfo.cpus if (number := cpu.get("CPU part"))}
            if len(parts) > 1:
                self._unknown["processor"] = f"several kinds of cores: parts {', '.join(sorted(parts))}"
                return None
            if (name := arm_processor_name(implementer, part)) is not None:
                return self._named(name, f"/proc/cpuinfo: implementer {implementer:#x}, part {part:#x}")
        if (numbers := self._x86_numbers()) is not None and not _EMULATED.search(model):
            name = x86_processor_name(self._cpuinfo.first("vendor_id"), *numbers)
            return self._named(name, "/proc/cpuinfo: cpu family {}, model {}, stepping {}".format(*numbers))
        if machine := self._cpuinfo.s390_machine:
            return self._named(f"ibm_{machine}", f"/proc/cpuinfo: machine = {machine}")
        if (name := self._processor_in_device_tree()) is not None:
            return self._named(name, f"/{_DEVICE_TREE}/cpus")
        if implementer is not None and part is not None:
            self._unknown["processor"] = f"implementer {implementer:#x}, part {part:#x} is not known here"
        else:
            self._unknown["processor"] = f"{model!r} names no processor" if model else "/proc/cpuinfo names none"
        return None

    def _named(self, name: str, found_in: str) -> str:
        self._found_in["processor"] = found_in
        return name

    def _x86_numbers(self) -> tuple[int, int, int] | None:
        """Return the family, model and stepping of an x86 CPU; None on other architectures."""
        numbers = [self._cpuinfo.first(key) for key in ("cpu family", "model", "stepping")]
        if not all(_PACKAGE.fullmatch(number) for number in numbers):
            return None
        family, model, stepping = map(int, numbers)
        return family, model, stepping

    def _processor_in_device_tree(self) -> str | None:
        """Return the processor's name in the device tree; None if the tree lists no cores or different cores."""
        kinds = set()
        for file in sorted((self._root / _DEVICE_TREE / "cpus").glob("cpu@*/compatible"))[:_MAX_DEVICE_TREE_CPUS]:
            path = str(file.relative_to(self._root))
            kinds.add(processor_name(self._text(path).partition("\0")[0].strip()[:_NAME_CHARACTERS]))
        return kinds.pop() if len(kinds) == 1 else None

    def _vendor(self) -> str | None:
        if vendor := self._cpuinfo.first("vendor_id")[:_NAME_CHARACTERS]:
            self._found_in["vendor"] = "/proc/cpuinfo"
            return vendor.casefold()
        implementer = _hex(self._cpuinfo.first("CPU implementer"))
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
            # The key is "package" on LoongArch and "physical id" on other architectures.
            ids = (cpu.get("physical id") or cpu.get("package") or "" for cpu in self._cpuinfo.cpus)
            packages = {int(package_id) for package_id in ids if _PACKAGE.fullmatch(package_id)}
            where = "/proc/cpuinfo"
        if not packages or min(packages) < 0:
            self._unknown["chips"] = "the kernel does not say which socket a CPU is in"
            return None
        if self.virtual is not None and (why := self._invented_sockets(len(packages))):
            self._unknown["chips"] = f"a virtual machine that shows a socket for each of its {why}"
            return None
        if self._cpuinfo.first("CPU implementer", "hart") and len(packages) > self._memory_nodes():
            # Linux before 5.19 reports clusters of ARM and RISC-V cores as sockets. A real socket has memory of its
            # own, so there is at least one NUMA node for each real socket. A cluster has no memory of its own.
            self._unknown["chips"] = f"{len(packages)} clusters of cores, which Linux reports as sockets"
            return None
        self._found_in["chips"] = where
        return len(packages)

    def _invented_sockets(self, packages: int) -> str:
        """Return a text such as "4 CPUs" or "2 cores" if each CPU or each core has its own socket; otherwise "".

        Such sockets are not real. By default, hypervisors show each virtual CPU as a socket, but the processors of
        real servers have more than one core.
        """
        if packages == len(self._numbers) > 1:
            return f"{packages} CPUs"
        lists = (self._text(f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") for n in self._numbers)
        cores = {tuple(cpu_list(text)) for text in lists}
        return f"{packages} cores" if packages == len(cores) > 1 else ""

    def _memory_nodes(self) -> int:
        """Return the number of NUMA nodes that have CPUs; 1 on machines without NUMA."""
        nodes = self._text("sys/devices/system/node/has_cpu") or self._text("sys/devices/system/node/online")
        return max(len(cpu_list(nodes)), 1)

    def _threads_per_core(self) -> int | None:
        sizes = {
            len(siblings)
            for number in self._numbers
            if (siblings := cpu_list(self._text(f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list")))
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
        shown = self._cpuinfo.first("cpu MHz")
        now = f" (/proc/cpuinfo has {shown} MHz, which is not the highest)" if shown else ""
        why = "a virtual machine does not show its clock" if self.virtual else "no cpufreq driver"
        self._unknown["frequency"] = why + now
        return None


def _hex(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None
