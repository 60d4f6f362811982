"""Tests of machine discovery from /proc and /sys, and of machine descriptions in files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.errors import UsageError
from kepler_core.machine import ATTRIBUTES, MachineSpec, differences, identity, machine_spec_from, read_machine_spec
from kepler_core.processor_names import arm_processor_name, comparable_processor, processor_name
from kepler_profiler.machine import Discovery, discover

XEON = "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"


def put(root: Path, path: str, text: str | bytes) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode() if isinstance(text, str) else text)


def x86(
    root: Path,
    *,
    model: str = XEON,
    vendor: str = "GenuineIntel",
    sockets: int = 2,
    cores: int = 2,
    threads: int = 2,
    kib: int = 395_000_000,
    khz: int | None = 3_500_000,
    flags: str = "fpu sse2",
    topology: bool = True,
) -> Path:
    """Imitate a machine: write its files of /proc and /sys below the folder `root`.

    The machine has `sockets` sockets with `cores` cores each, and `threads` CPUs for each core. CPUs are numbered as in
    Linux: first the first threads of all cores, then the second threads.
    """
    physical = sockets * cores
    blocks = []
    for cpu in range(physical * threads):
        package = (cpu % physical) // cores
        blocks.append(
            f"processor\t: {cpu}\nvendor_id\t: {vendor}\nmodel name\t: {model}\ncpu MHz\t\t: 2500.011\n"
            f"physical id\t: {package}\nflags\t\t: {flags}\n"
        )
        base = f"sys/devices/system/cpu/cpu{cpu}"
        if topology:
            siblings = ",".join(str(cpu % physical + physical * t) for t in range(threads))
            put(root, f"{base}/topology/physical_package_id", f"{package}\n")
            put(root, f"{base}/topology/thread_siblings_list", f"{siblings}\n")
        if khz is not None:
            put(root, f"{base}/cpufreq/cpuinfo_max_freq", f"{khz}\n")
    put(root, "proc/cpuinfo", "\n".join(blocks) + "\n")
    put(root, "proc/meminfo", f"MemTotal:       {kib} kB\nMemFree:        1 kB\n")
    put(root, "sys/devices/system/cpu/online", f"0-{physical * threads - 1}\n")
    return root


def arm(root: Path, *, implementer: str = "0x41", parts: tuple[str, ...] = ("0xd0c",) * 4) -> Path:
    blocks = [
        f"processor\t: {cpu}\nBogoMIPS\t: 243.75\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n"
        for cpu, part in enumerate(parts)
    ]
    put(root, "proc/cpuinfo", "\n".join(blocks) + "\n")
    put(root, "proc/meminfo", "MemTotal:       32505856 kB\n")
    put(root, "sys/devices/system/cpu/online", f"0-{len(parts) - 1}\n")
    for cpu in range(len(parts)):
        put(root, f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", "0\n")
        put(root, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{cpu}\n")
    return root


def check_reasons(machine: Discovery) -> None:
    """Check each attribute: either its value and the source file are known, or a reason states why it is not known."""
    for name in ATTRIBUTES:
        if getattr(machine.spec, name) is None:
            assert machine.unknown[name]
            assert name not in machine.found_in
        else:
            assert machine.found_in[name]
            assert name not in machine.unknown


# --- machines -------------------------------------------------------------------------------------


def test_bare_metal(tmp_path: Path) -> None:
    machine = discover(x86(tmp_path, cores=24))
    assert machine.spec == MachineSpec("intel_xeon_platinum_8259cl", 96, 2, 376, 3500, "genuineintel", 2)
    assert machine.virtual is None
    assert machine.unknown == {}
    check_reasons(machine)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", "intel_xeon_platinum_8259cl"),
        ("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", "intel_xeon_e5_2686v4"),
        ("Intel(R) Xeon(R) Platinum 8275CL CPU @ 3.00GHz", "intel_xeon_platinum_8275cl"),
        ("Intel(R) Xeon(R) Platinum 8252C CPU @ 3.80GHz", "intel_xeon_platinum_8252c"),
        ("Intel(R) Xeon(R) Platinum 8488C", "intel_xeon_platinum_8488c"),
        ("AMD EPYC 7763 64-Core Processor", "amd_epyc_7763"),
        ("AMD Ryzen 7 5800X 8-Core Processor", "amd_ryzen_7_5800x"),
        ("AMD Ryzen 7 5700G with Radeon Graphics", "amd_ryzen_7_5700g"),
        ("11th Gen Intel(R) Core(TM) i7-1185G7 @ 3.00GHz", "intel_core_i7_1185g7"),
        ("Intel Xeon Processor (Skylake, IBRS)", "intel_xeon_skylake"),
    ],
)
def test_processor_names(model: str, name: str, tmp_path: Path) -> None:
    """A processor's name is made from its model name.

    The first five processors are in Kepler's public model database.
    """
    assert processor_name(model) == name
    assert discover(x86(tmp_path, model=model)).spec.processor == name


@pytest.mark.parametrize(
    ("spellings", "name"),
    [
        (("AMD EPYC 7763 64-Core Processor", "amd_epyc_7763_64_core", "AMD_EPYC_7763", "EPYC 7763"), "amd_epyc_7763"),
        (("AMD EPYC 9754 128-Core Processor", "amd_epyc_9754_128_core_processor"), "amd_epyc_9754"),
        (("13th Gen Intel(R) Core(TM) i7-1370P", "13th_gen_intel_core_i7_1370p"), "intel_core_i7_1370p"),
        (("Intel(R) Xeon(R) Platinum 8480+", "intel_xeon_platinum_8480+"), "intel_xeon_platinum_8480+"),
        (("Intel(R) Xeon(R) CPU E5-2686 v4 @ 2.30GHz", "intel_xeon_e5_2686_v4"), "intel_xeon_e5_2686v4"),
        (("AMD Ryzen 7 5700G with Radeon Graphics", "amd_ryzen_7_5700g_with_radeon_graphics"), "amd_ryzen_7_5700g"),
        (("AMD Ryzen Threadripper PRO 5995WX 64-Cores",), "amd_ryzen_threadripper_pro_5995wx"),
        (("Intel(R) Core(TM)2 Duo CPU     E8400  @ 3.00GHz", "intel_core2_duo_e8400"), "intel_core_2_duo_e8400"),
        (("intel_xeon_processor_skylake,_ibrs", "Intel Xeon Processor (Skylake, IBRS)"), "intel_xeon_skylake"),
        (("AMD EPYC-Rome Processor", "amd_epyc_rome"), "amd_epyc_rome"),
        (("POWER9, altivec supported", "power9"), "ibm_power9"),
        (("Neoverse-V1", "arm_neoverse_v1", "arm,neoverse-v1"), "arm_neoverse_v1"),
    ],
)
def test_spellings_of_one_processor(spellings: tuple[str, ...], name: str) -> None:
    """CPUs, Kepler and model databases spell a processor's name differently. All spellings become one name."""
    for spelling in (*spellings, name):
        assert processor_name(spelling) == name
        assert identity({"processor": spelling}) == identity({"processor": name}) != {}


def test_a_plus_in_a_name_is_kept_but_not_compared() -> None:
    """A plus at the end of a name is kept, but ignored in comparisons, because some tools remove the plus."""
    assert comparable_processor("intel_xeon_platinum_8480+") == comparable_processor("intel_xeon_platinum_8480")
    spec = machine_spec_from({"processor": "Intel(R) Xeon(R) Platinum 8480+"}, "x")
    assert spec.identity == {"processor": "intel_xeon_platinum_8480+"}


FITS_GENERATIONS = [
    "Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) Processor @ 2.60GHz", "intel_xeon_processor", "intel_xeon",
    "AMD EPYC", "AMD EPYC Processor (with IBPB)", "Genuine Intel(R) CPU 0000 @ 2.00GHz", "intel_core_i7",
    "Intel(R) Xeon(R) Platinum", "AMD Ryzen 7",
]  # fmt: skip


@pytest.mark.parametrize("model", FITS_GENERATIONS)
def test_names_that_fit_several_generations(model: str, tmp_path: Path) -> None:
    """A name that CPUs of several generations share is not used. Family, model and stepping are used instead."""
    assert processor_name(model) is None
    assert identity({"processor": model, "cores": 4}) == {"cores": 4}
    names = set()
    for number, (family, kind, stepping) in enumerate([(6, 79, 0), (6, 85, 4), (6, 85, 7), (6, 106, 6)]):
        root = x86(tmp_path / str(number), model=model, flags="fpu hypervisor")
        numbers = f"cpu family\t: {family}\nmodel\t\t: {kind}\nstepping\t: {stepping}\nflags"
        put(root, "proc/cpuinfo", (root / "proc/cpuinfo").read_text().replace("flags", numbers))
        machine = discover(root)
        check_reasons(machine)
        name = machine.spec.processor
        assert name == f"intel_family_{family}_model_{kind}_stepping_{stepping}"
        assert processor_name(name) == name
        names.add(comparable_processor(name))
    assert len(names) == 4


@pytest.mark.parametrize(
    "model", ["QEMU Virtual CPU version 2.5+", "Common KVM processor", "CPU", "", "@ 2.50GHz", "()"]
)
def test_names_that_name_no_processor(model: str, tmp_path: Path) -> None:
    assert processor_name(model) is None
    machine = discover(x86(tmp_path, model=model))
    assert machine.spec.processor is None
    check_reasons(machine)


def test_amd(tmp_path: Path) -> None:
    machine = discover(
        x86(tmp_path, model="AMD EPYC 7763 64-Core Processor", vendor="AuthenticAMD", sockets=1, khz=3_529_052)
    )
    assert (machine.spec.processor, machine.spec.vendor) == ("amd_epyc_7763", "authenticamd")
    assert (machine.spec.chips, machine.spec.frequency) == (1, 3500)


def test_a_virtual_machine_with_a_socket_for_every_cpu(tmp_path: Path) -> None:
    machine = discover(x86(tmp_path, sockets=4, cores=1, threads=1, khz=None, flags="fpu hypervisor"))
    assert machine.virtual is not None
    assert (machine.spec.cores, machine.spec.chips, machine.spec.frequency) == (4, None, None)
    assert "socket for each of its 4 CPUs" in machine.unknown["chips"]
    assert "2500.011" in machine.unknown["frequency"]
    check_reasons(machine)


def test_bare_metal_may_have_a_socket_for_every_cpu(tmp_path: Path) -> None:
    assert discover(x86(tmp_path, sockets=2, cores=1, threads=1)).spec.chips == 2


@pytest.mark.parametrize(
    ("files", "virtual"),
    [
        ({"sys/class/dmi/id/sys_vendor": "QEMU", "sys/class/dmi/id/product_name": "Standard PC"}, True),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "m5.large"}, True),
        ({"sys/class/dmi/id/sys_vendor": "Amazon EC2", "sys/class/dmi/id/product_name": "m5.metal"}, False),
        ({"sys/class/dmi/id/sys_vendor": "Dell Inc.", "sys/class/dmi/id/product_name": "PowerEdge R640"}, False),
        ({"sys/hypervisor/type": "xen"}, True),
        ({"sys/firmware/devicetree/base/hypervisor/compatible": "linux,kvm"}, True),
        ({"proc/device-tree/hypervisor/compatible": "linux,kvm"}, True),
        ({"sys/firmware/devicetree/base/compatible": "linux,dummy-virt"}, True),
        ({"sys/firmware/devicetree/base/compatible": "raspberrypi,4-model-b"}, False),
    ],
)
def test_evidence_of_a_virtual_machine(files: dict[str, str], virtual: bool, tmp_path: Path) -> None:
    for path, text in files.items():
        put(tmp_path, path, text + "\n")
    assert (discover(x86(tmp_path)).virtual is not None) == virtual


def test_a_container_without_sys(tmp_path: Path) -> None:
    """If /sys cannot be read, the numbers of cores and chips come from /proc. The threads per core are not known."""
    x86(tmp_path, topology=False, khz=None)
    (tmp_path / "sys/devices/system/cpu/online").unlink()
    machine = discover(tmp_path)
    assert (machine.spec.cores, machine.spec.chips) == (8, 2)
    assert (machine.spec.threads_per_core, machine.spec.frequency) == (None, None)
    assert "no cpufreq driver" in machine.unknown["frequency"]
    check_reasons(machine)


def test_offline_cpus_are_not_counted(tmp_path: Path) -> None:
    x86(tmp_path, sockets=1, cores=4, threads=1)
    put(tmp_path, "sys/devices/system/cpu/online", "0-1,3\n")
    assert discover(tmp_path).spec.cores == 3


def test_hybrid_cores(tmp_path: Path) -> None:
    """The number of threads per core is not known if some cores have two threads and other cores have one."""
    x86(tmp_path, model="12th Gen Intel(R) Core(TM) i5-1240P", sockets=1, cores=6, threads=1)
    for cpu, siblings, khz in ((0, "0-1", 4_400_000), (1, "0-1", 4_400_000), (2, "2-3", 4_400_000), (3, "2-3", 1)):
        put(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings + "\n")
        put(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq", f"{khz}\n")
    machine = discover(tmp_path)
    assert machine.spec.threads_per_core is None
    assert machine.unknown["threads_per_core"] == "hybrid: cores with 1 and 2 threads"
    assert (machine.spec.cores, machine.spec.frequency) == (6, 4400)


def test_arm(tmp_path: Path) -> None:
    machine = discover(arm(tmp_path))
    assert machine.spec == MachineSpec("arm_neoverse_n1", 4, 1, 31, None, "arm", 1)
    check_reasons(machine)


def test_unknown_arm_processor(tmp_path: Path) -> None:
    machine = discover(arm(tmp_path, implementer="0x99", parts=("0xfff",)))
    assert (machine.spec.processor, machine.spec.vendor) == (None, None)
    assert "0x99" in machine.unknown["processor"]
    assert arm_processor_name(0x41, 0xFFF) is None
    check_reasons(machine)


def test_arm_with_two_kinds_of_cores(tmp_path: Path) -> None:
    machine = discover(arm(tmp_path, parts=("0xd08", "0xd03", "0xd03")))
    assert machine.spec.processor is None
    assert "0xd03, 0xd08" in machine.unknown["processor"]
    assert machine.spec.vendor == "arm"


RASPBERRY_PI = "Hardware\t: BCM2711\nRevision\t: c03111\nModel\t\t: Raspberry Pi 4 Model B Rev 1.1\n"


@pytest.mark.parametrize("model", ["", "model name\t: ARMv7 Processor rev 3 (v7l)\n"])
@pytest.mark.parametrize("online", [True, False])
def test_raspberry_pi(model: str, online: bool, tmp_path: Path) -> None:
    """The block in /proc/cpuinfo that describes the board does not count as a CPU.

    The model name is the name of the instruction set (ARMv7), and does not count as the name of the processor.
    """
    arm(tmp_path, parts=("0xd08",) * 4)
    blocks = (tmp_path / "proc/cpuinfo").read_text().replace("BogoMIPS", model + "BogoMIPS")
    put(tmp_path, "proc/cpuinfo", f"{blocks}\n{RASPBERRY_PI}")
    if not online:
        (tmp_path / "sys/devices/system/cpu/online").unlink()
    machine = discover(tmp_path)
    assert (machine.spec.processor, machine.spec.cores, machine.spec.chips) == ("arm_cortex_a72", 4, 1)
    check_reasons(machine)


def test_arm_before_linux_3_8(tmp_path: Path) -> None:
    """The part number in /proc/cpuinfo is used for all CPUs, if an old kernel lists it once, after the list of CPUs."""
    put(
        tmp_path,
        "proc/cpuinfo",
        "Processor\t: ARMv7 Processor rev 5 (v7l)\nprocessor\t: 0\nBogoMIPS\t: 38.40\n\nprocessor\t: 1\n\n"
        "Features\t: swp\nCPU implementer\t: 0x41\nCPU part\t: 0xc07\n\nHardware\t: sun7i\n",
    )
    machine = discover(tmp_path)
    assert (machine.spec.processor, machine.spec.cores, machine.spec.chips) == ("arm_cortex_a7", 2, None)
    check_reasons(machine)


@pytest.mark.parametrize(("nodes", "chips"), [(None, None), ("0", None), ("0-1", 2)])
def test_clusters_of_arm_cores_are_no_sockets(nodes: str | None, chips: int | None, tmp_path: Path) -> None:
    arm(tmp_path, parts=("0xd0c",) * 4)
    for cpu in range(4):
        put(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id", f"{cpu // 2}\n")
    if nodes is not None:
        put(tmp_path, "sys/devices/system/node/has_cpu", nodes + "\n")
    machine = discover(tmp_path)
    assert machine.spec.chips == chips
    assert chips or "2 clusters" in machine.unknown["chips"]
    check_reasons(machine)


def test_a_virtual_machine_with_a_socket_for_every_core(tmp_path: Path) -> None:
    machine = discover(x86(tmp_path, sockets=4, cores=1, threads=2, flags="fpu hypervisor"))
    assert machine.spec.chips is None
    assert "socket for each of its 4 cores" in machine.unknown["chips"]


def test_a_virtual_machine_with_the_sockets_of_the_hardware(tmp_path: Path) -> None:
    assert discover(x86(tmp_path, sockets=2, cores=4, threads=2, flags="fpu hypervisor")).spec.chips == 2


@pytest.mark.parametrize(
    ("cpu", "machine_lines", "name", "virtual"),
    [
        ("POWER9, altivec supported", "platform\t: PowerNV\nmodel\t\t: 8335-GTW\n", "ibm_power9", False),
        ("POWER10 (raw), altivec supported", "platform\t: pSeries\nmachine: CHRP IBM,9080-HEX\n", "ibm_power10", True),
        # "architected": the virtual machine may imitate an older processor and show its name.
        ("POWER9 (architected), altivec supported", "platform\t: pSeries\n", None, True),
        ("POWER9, altivec supported", "machine\t\t: CHRP IBM pSeries (emulated by qemu)\n", "ibm_power9", True),
    ],
)  # fmt: skip
def test_power(cpu: str, machine_lines: str, name: str | None, virtual: bool, tmp_path: Path) -> None:
    """The processor, cores and chips of a POWER machine are found. Only each core's first thread is online."""
    blocks = [f"processor\t: {number}\ncpu\t\t: {cpu}\nclock\t\t: 2900.0MHz\n" for number in (0, 4, 8)]
    put(tmp_path, "proc/cpuinfo", "\n".join([*blocks, "timebase\t: 512000000\n" + machine_lines]))
    for number in (0, 4, 8):
        put(tmp_path, f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id", f"{number // 8 * 8}\n")
    machine = discover(tmp_path)
    assert (machine.spec.processor, machine.spec.cores, machine.spec.chips) == (name, 3, 2)
    assert (machine.virtual is not None) == virtual
    check_reasons(machine)


@pytest.mark.parametrize(
    ("sysinfo", "evidence"),
    [
        ("VM00 Name:            GUEST\nVM00 Control Program: KVM/Linux\n", "KVM/Linux"),
        ("LPAR Number:          7\nVM00 Control Program: z/VM    7.3.0\n", "z/VM    7.3.0"),
        ("Type:                 8561\nLPAR Number:          7\n", "LPAR"),
    ],
)
@pytest.mark.parametrize("topology", [True, False])
def test_s390(sysinfo: str, evidence: str, topology: bool, tmp_path: Path) -> None:
    cpus = "".join(f"processor {n}: version = FF,  identification = 29AA14,  machine = 8561\n" for n in range(2))
    numbers = "\n".join(f"\ncpu number      : {n}\nmachine         : 8561" for n in range(2))
    put(tmp_path, "proc/cpuinfo", f"vendor_id       : IBM/S390\n# processors    : 2\n{cpus}{numbers}\n")
    put(tmp_path, "proc/sysinfo", sysinfo)
    for number in range(2 if topology else 0):
        put(tmp_path, f"sys/devices/system/cpu/cpu{number}/topology/physical_package_id", f"{number}\n")
    machine = discover(tmp_path)
    assert (machine.spec.processor, machine.spec.cores, machine.spec.chips) == ("ibm_8561", 2, None)
    assert machine.virtual is not None
    assert evidence in machine.virtual
    check_reasons(machine)


def test_loongarch(tmp_path: Path) -> None:
    cpu = "processor\t\t: {}\npackage\t\t\t: {}\nCPU Family\t\t: Loongson-64bit\nModel Name\t\t: Loongson-3A5000\n"
    blocks = [cpu.format(number, number // 2) for number in range(4)]
    put(tmp_path, "proc/cpuinfo", "\n".join(["system type\t\t: generic-loongson-machine\n", *blocks]))
    machine = discover(tmp_path)
    assert (machine.spec.processor, machine.spec.cores, machine.spec.chips) == ("loongson_3a5000", 4, 2)
    check_reasons(machine)


@pytest.mark.parametrize(
    ("uarch", "tree", "name"),
    [
        ("uarch\t\t: sifive,u74-mc\n", [], "sifive_u74_mc"),
        ("", [b"sifive,u74-mc\0riscv\0", b"sifive,u74-mc\0riscv\0"], "sifive_u74_mc"),
        ("", [b"sifive,s7\0riscv\0", b"sifive,u74-mc\0riscv\0"], None),
        ("", [b"riscv\0"], None),
    ],
)
def test_riscv(uarch: str, tree: list[bytes], name: str | None, tmp_path: Path) -> None:
    """If /proc/cpuinfo does not name the processor, its name comes from the device tree, if it is there."""
    blocks = [f"processor\t: {cpu}\nhart\t\t: {cpu + 1}\nisa\t\t: rv64imafdc\n{uarch}" for cpu in range(2)]
    put(tmp_path, "proc/cpuinfo", "\n".join(blocks))
    for number, compatible in enumerate(tree):
        put(tmp_path, f"sys/firmware/devicetree/base/cpus/cpu@{number}/compatible", compatible)
    machine = discover(tmp_path)
    assert (machine.spec.processor, machine.spec.cores, machine.spec.chips) == (name, 2, None)
    check_reasons(machine)


@pytest.mark.parametrize(
    ("kib", "gib"), [(0, None), (1023 * 1024, None), (1024 * 1024, 1), (int(15.6 * 2**20), 15), (2**40, 2**20)]
)
def test_memory(kib: int, gib: int | None, tmp_path: Path) -> None:
    machine = discover(x86(tmp_path, kib=kib))
    assert machine.spec.memory == gib
    check_reasons(machine)


@pytest.mark.parametrize(("khz", "mhz"), [(0, None), (-5, None), (49_000, None), (2_950_001, 3000), (3_449_999, 3400)])
def test_frequency(khz: int, mhz: int | None, tmp_path: Path) -> None:
    machine = discover(x86(tmp_path, khz=khz))
    assert machine.spec.frequency == mhz
    check_reasons(machine)


def test_unreadable_files(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "absent"):
        machine = discover(root)
        assert machine.spec == MachineSpec()
        assert set(machine.unknown) == set(ATTRIBUTES)
        assert machine.virtual is None


ANY_CONTENT = st.one_of(
    st.binary(max_size=200),
    st.lists(
        st.sampled_from(
            [
                b"0x", b"processor", b"model name", b"physical id", b"flags", b"vendor_id", b"CPU part",
                b"CPU implementer",
                b":", b"\t: ", b"\n", b"\n\n", b"0", b"-1", b"0-", b"-", b",", b"0-99999999999999", b"9" * 5000,
                b"\xff", b"\x00", "²٣".encode(), b"0xd0c", b"MemTotal:  ", b" kB", b"(((", b"Intel", b"@",
                b"hypervisor",
            ]
        ),
        max_size=30,
    ).map(b"".join),
)  # fmt: skip


@given(
    cpuinfo=ANY_CONTENT,
    meminfo=ANY_CONTENT,
    online=ANY_CONTENT,
    package=ANY_CONTENT,
    siblings=ANY_CONTENT,
    frequency=ANY_CONTENT,
)
def test_any_content_of_the_files(
    tmp_path_factory: pytest.TempPathFactory,
    cpuinfo: bytes,
    meminfo: bytes,
    online: bytes,
    package: bytes,
    siblings: bytes,
    frequency: bytes,
) -> None:
    root = tmp_path_factory.mktemp("machine")
    put(root, "proc/cpuinfo", b"processor: 0\nmodel name: " + cpuinfo)
    put(root, "proc/meminfo", b"MemTotal: " + meminfo + b" kB\n")
    put(root, "sys/devices/system/cpu/online", online)
    put(root, "sys/devices/system/cpu/cpu0/topology/physical_package_id", package)
    put(root, "sys/devices/system/cpu/cpu0/topology/thread_siblings_list", siblings)
    put(root, "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", frequency)
    machine = discover(root)
    check_reasons(machine)
    # The machine's description can be written as JSON and read again.
    assert machine_spec_from(json.loads(json.dumps(machine.spec.as_dict())), "x") == machine.spec
    shutil.rmtree(root)


MODEL_WORDS = st.sampled_from(
    [
        "Intel(R)", "AMD", "Xeon(R)", "EPYC", "CPU", "Processor", "64-Core", "64", "core", "Core(TM)2", "13th", "Gen",
        "@", "2.20GHz", "GHz", "2", "7763", "v4", "8480+", "+", "(", ")", "with", "Radeon", "rev", "(v7l)", "not",
        "specified", "_", "no", "TSX", "ibpb", "POWER9", "neoverse",
    ]
)  # fmt: skip


@given(st.text(max_size=80) | st.lists(MODEL_WORDS, max_size=8).map(" ".join))
def test_any_model_name(model: str) -> None:
    name = processor_name(model)
    assert name is None or re.fullmatch(r"[a-z0-9+]+(_[a-z0-9+]+)*", name)
    assert name is None or processor_name(name) == name


# --- descriptions in files ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"cores": 4.5}, ["cores", "4.5", "whole number"]),
        ({"cores": "96"}, ["cores", "'96'", "whole number"]),
        ({"cores": True}, ["cores", "whole number"]),
        ({"cores": -1}, ["cores", "-1"]),
        ({"memory": 10**13}, ["memory", "is not between 0 and"]),
        ({"processor": 5}, ["processor", "not a name"]),
        ({"processor": "x" * 2000}, ["processor", "not a name"]),
        ({"processr": "x"}, ["'processr'", "processor"]),
        ({"attrs": {"cores": 4}, "members": []}, ["node-type index", "attrs"]),
        ({"0": {"attrs": {"cores": 4}}}, ["node-type index"]),
        ([], ["object", "list"]),
        (None, ["object", "NoneType"]),
    ],
)
def test_wrong_descriptions(document: Any, words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError) as raised:
        read_machine_spec(path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_files_that_are_not_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"not JSON"):
        read_machine_spec(path)


def test_a_description_on_standard_input(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kepler_core", "profile", "node-types", "add", "--spec", "-", "--index"]
    document = json.dumps({"processor": "x_y", "cores": 4})
    done = subprocess.run([*command, tmp_path / "i.json"], input=document, text=True, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "i.json").read_text())["0"]["attrs"] == {"processor": "x_y", "cores": 4}


def test_empty_values_are_absent() -> None:
    document = {"processor": " ", "cores": 0, "chips": None, "memory": 3, "vendor": ""}
    assert machine_spec_from(document, "x") == MachineSpec(memory=3)
    assert machine_spec_from({}, "x").as_dict() == {}


@given(st.binary(max_size=100))
def test_any_bytes_as_a_description(content: bytes) -> None:
    try:
        document = json.loads(content)
    except ValueError:
        return
    try:
        machine_spec_from(document, "x")
    except UsageError as error:
        message = str(error)
    else:
        return
    assert "\n" not in message


@pytest.mark.parametrize("value", [0, -5, "", "96", None, [], float("inf"), float("nan")])
def test_values_that_do_not_identify(value: Any) -> None:
    assert identity({"processor": "a_b", "cores": value}) == {"processor": "a_b"}


def test_differences() -> None:
    one = {"processor": "a_b", "cores": 4, "memory": 8, "vendor": "x"}
    assert differences(one, {"processor": "A_B ", "cores": 4, "vendor": "y"}) == []
    assert differences(one, {"cores": 8, "memory": 8}) == ["cores 4, not 8"]
    assert differences({}, one) == []


# --- the machine that runs the tests ---------------------------------------------------------------


def profile_machine(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kepler_core", "profile", "machine", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_this_machine(tmp_path: Path) -> None:
    """The description of the machine that runs the tests agrees with sysconf, /proc/cpuinfo and lscpu."""
    path = tmp_path / "spec.json"
    done = profile_machine("--json", "-o", path)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    spec = document["machine_spec"]
    assert read_machine_spec(path).as_dict() == spec
    assert set(spec) | set(document["unknown"]) == set(ATTRIBUTES)
    assert spec["cores"] == os.sysconf("SC_NPROCESSORS_ONLN")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert spec["memory"] == total // 2**30
    cpuinfo = Path("/proc/cpuinfo").read_text()
    if "vendor" in spec and (vendor := re.search(r"^vendor_id\s*: (\S+)", cpuinfo, re.MULTILINE)):
        assert spec["vendor"] == vendor[1].casefold()
    if (lscpu := shutil.which("lscpu")) is None:
        pytest.skip("lscpu is not here")
    listed = json.loads(subprocess.run([lscpu, "-J"], check=True, capture_output=True, text=True).stdout)["lscpu"]
    flat = {}
    while listed:
        entry = listed.pop()
        flat[entry["field"].rstrip(":")] = entry["data"]
        listed += entry.get("children", [])
    for key, name in (("Thread(s) per core", "threads_per_core"), ("Socket(s)", "chips")):
        if name in spec and (flat.get(key) or "").isdecimal():
            assert spec[name] == int(flat[key])
    assert (document["virtual"] is not None) >= ("Hypervisor vendor" in flat)


def test_the_table_has_every_attribute(tmp_path: Path) -> None:
    done = profile_machine()
    assert done.returncode == 0, done.stderr
    for name in ATTRIBUTES:
        assert f"\n{name} " in done.stdout


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    done = profile_machine("-o", tmp_path / "absent" / "spec.json")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "cannot write" in done.stderr
