"""Processor names in the form that node types use: `intel_xeon_platinum_8259cl`.

A name is made from the CPU's own name (`model name` in /proc/cpuinfo): trade marks, clock rates and
filler words are removed, and the vendor comes first. arm64 CPUs report only the numbers of their
implementer and part, so their names come from a table.
"""

from __future__ import annotations

import re

_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™]", re.IGNORECASE)
_CLOCK = re.compile(r"@.*$|\b\d+(?:\.\d+)?\s*[gm]hz\b", re.IGNORECASE)
_GENERATION = re.compile(r"\b\d+(?:st|nd|rd|th) gen\b", re.IGNORECASE)
_CORES = re.compile(r"\b(?:\d+|dual|quad|six|eight|twelve)-core\b", re.IGNORECASE)
_FILLER_WORDS = re.compile(r"\b(?:cpu|processor|genuine|with radeon.*|w/ radeon.*)\b", re.IGNORECASE)
_VERSION = re.compile(r"\s+(v\d+)\b", re.IGNORECASE)
_NOT_NAME = re.compile(r"[^a-z0-9]+")
_VENDORS = {"intel": "intel", "amd": "amd", "ampere": "ampere"}

_NO_PROCESSOR = re.compile(r"\b(?:qemu|virtual|common|kvm)\b", re.IGNORECASE)

IMPLEMENTERS = {
    0x41: "arm", 0x42: "broadcom", 0x43: "cavium", 0x46: "fujitsu", 0x48: "hisilicon", 0x4E: "nvidia",
    0x50: "apm", 0x51: "qualcomm", 0x61: "apple", 0x6D: "microsoft", 0xC0: "ampere",
}  # fmt: skip
"""CPU implementer -> vendor (Linux, arch/arm64/include/asm/cputype.h)."""

PARTS = {
    (0x41, 0xD03): "cortex_a53", (0x41, 0xD05): "cortex_a55", (0x41, 0xD07): "cortex_a57",
    (0x41, 0xD08): "cortex_a72", (0x41, 0xD09): "cortex_a73", (0x41, 0xD0A): "cortex_a75",
    (0x41, 0xD0B): "cortex_a76", (0x41, 0xD0C): "neoverse_n1", (0x41, 0xD40): "neoverse_v1",
    (0x41, 0xD41): "cortex_a78", (0x41, 0xD49): "neoverse_n2", (0x41, 0xD4F): "neoverse_v2",
    (0x41, 0xD84): "neoverse_v3", (0x41, 0xD8E): "neoverse_n3",
    (0x43, 0x0A1): "thunderx", (0x43, 0x0AF): "thunderx2", (0x46, 0x001): "a64fx", (0x48, 0xD01): "tsv110",
    (0xC0, 0xAC3): "ampere1", (0xC0, 0xAC4): "ampere1a",
}  # fmt: skip
"""(implementer, part) -> name of the core (Linux, arch/arm64/include/asm/cputype.h)."""


def processor_name(model: str) -> str | None:
    """Return the processor's name from its `model name`; None if that names no processor, as QEMU's do."""
    if _NO_PROCESSOR.search(model):
        return None
    text = _GENERATION.sub(" ", _CLOCK.sub(" ", _MARKS.sub(" ", model)))
    text = _FILLER_WORDS.sub(" ", _CORES.sub(" ", text))
    # hypervisors add the microarchitecture in parentheses: "Intel Xeon Processor (Skylake, IBRS)"
    text = re.sub(r"\(([^,)]*)[^)]*\)", r" \1 ", text)
    text = _VERSION.sub(r"\1", text)
    words = [word for word in _NOT_NAME.sub(" ", text.casefold()).split() if word]
    for index, word in enumerate(words):
        if word in _VENDORS:
            words = [_VENDORS[word], *words[:index], *words[index + 1 :]]
            break
    return "_".join(words) if len(words) > 1 else None


def arm_processor_name(implementer: int, part: int) -> str | None:
    """Return the name of an arm64 processor; None if `PARTS` does not list it."""
    name = PARTS.get((implementer, part))
    return None if name is None else f"{IMPLEMENTERS[implementer]}_{name}"
