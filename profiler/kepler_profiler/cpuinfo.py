"""Read /proc/cpuinfo, whose form depends on the CPU architecture, and lists of CPU numbers."""

from __future__ import annotations

import re

import attrs

_CPU_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
# s390 lists its CPUs in one line each: "processor 0: version = FF,  identification = 29AA14,  machine = 3931".
_S390_CPU = re.compile(r"processor ([0-9]{1,5})")
_S390_MACHINE = re.compile(r"\bmachine = ([0-9A-F]{4})\b")
# Keys that begin the block of a CPU: "cpu number" on s390, "processor" on all other architectures.
_CPU_KEYS = ("processor", "cpu number")


@attrs.frozen
class CpuInfo:
    """The content of /proc/cpuinfo."""

    cpus: tuple[dict[str, str], ...]
    """For each logical CPU that is online, the keys and values of its section in the file."""
    others: tuple[dict[str, str], ...]
    """Keys and values of the sections that describe the whole machine, e.g. the model of a Raspberry Pi."""
    numbers: tuple[int, ...]
    """The numbers of the logical CPUs that are online, in ascending order. They need not be consecutive."""

    def first(self, *keys: str) -> str:
        """Return the value of the first of `keys` that has a value in any block; "" if none has.

        If several blocks have a value for this key, the value in the first of these blocks is returned.
        """
        blocks = (*self.cpus, *self.others)
        return next((block[key] for key in keys for block in blocks if block.get(key)), "")

    @property
    def s390_machine(self) -> str:
        """The machine type of an s390 CPU, e.g. "3931"; "" on other architectures."""
        for block in (*self.cpus, *self.others):
            for key, value in block.items():
                if _S390_CPU.fullmatch(key) and (machine := _S390_MACHINE.search(value)):
                    return machine[1].casefold()
        return ""


def parse_cpuinfo(text: str) -> CpuInfo:
    """Return the content of /proc/cpuinfo."""
    cpus: list[dict[str, str]] = []
    others: list[dict[str, str]] = []
    numbers: set[int] = set()
    for block in text.split("\n\n"):
        lines = (line.partition(":") for line in block.splitlines() if ":" in line)
        entries = {key.strip(): value.strip() for key, _, value in lines}
        number = next((entries[key] for key in _CPU_KEYS if key in entries), None)
        if number is not None:
            cpus.append(entries)
            numbers.add(int(number) if _CPU_RANGE.fullmatch(number) and number.isdecimal() else len(numbers))
        elif entries:
            others.append(entries)
            numbers.update(int(cpu[1]) for key in entries if (cpu := _S390_CPU.fullmatch(key)))
    return CpuInfo(tuple(cpus), tuple(others), tuple(sorted(numbers)))


def cpu_list(text: str) -> list[int]:
    """Return the CPU numbers in a list like "0-3,8"; an empty list if the text has another form."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        bounds = _CPU_RANGE.fullmatch(part)
        if bounds is None:
            return []
        numbers.update(range(int(bounds[1]), int(bounds[2] or bounds[1]) + 1))
    return sorted(numbers)
