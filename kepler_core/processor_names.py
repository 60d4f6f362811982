"""Names of processors, normalised so that every spelling of a processor's name becomes the same name.

The same processor has several spellings: the CPU reports "AMD EPYC 7763 64-Core Processor", Kepler sends
`amd_epyc_7763_64_core`, and public model databases have `amd_epyc_7763`. `processor_name` returns
`amd_epyc_7763` for all three. Every comparison of two processors compares normalised names.

Some names fit processors of several generations, e.g. "Intel Xeon CPU @ 2.20GHz", which cloud providers show in
virtual machines. The power of these generations differs, so Kepler Core treats a processor with such a name as unknown.
"""

from __future__ import annotations

import re
from functools import lru_cache

_MAX_CHARACTERS = 1000
_MARKS = re.compile(r"\((?:r|tm|c)\)|[®™]")
_CLOCK = re.compile(r"(?s:@.*$)|(?<![a-z0-9])[0-9]+(?:[._ ][0-9]+)?[\s_]*[gm]hz(?![a-z0-9])")
# Hypervisors add the microarchitecture in parentheses: "Intel Xeon Processor (Skylake, IBRS)".
_PARENTHESES = re.compile(r"\(([^,)]*)[^)]*\)")
_ARM_REVISION = re.compile(r"\brev(?:ision)? [0-9]+( v[0-9]+[a-z]?| aarch64)?\b")
_GENERATION = re.compile(r"\b[0-9]+(?:st|nd|rd|th) gen\b")
_CORES = re.compile(r"\b(?:[0-9]+|dual|triple|quad|six|eight|ten|twelve|sixteen) cores?\b(?! (?:i[3579]|ultra|[0-9]))")
_GRAPHICS = re.compile(r"\b(?:with |w )?radeon(?: .*)?$")
_FILLER_WORDS = re.compile(
    r"\b(?:cpu|processor|genuine|apu|altivec supported|raw|(?:with )?ibpb|ibrs|no tsx|notsx|fpu v[0-9].*)(?: |$)"
)
_CORE_2 = re.compile(r"\bcore2\b")
_XEON_VERSION = re.compile(r"\b([a-z]?[0-9]{4}[a-z]*) (v[0-9]+)\b")
_SEPARATORS = re.compile(r"[^a-z0-9+]+")

_NO_PROCESSOR = re.compile(r"\b(?:qemu|virtual|common|kvm|tcg|unknown|none|not specified|architected)\b")

_VENDORS = {
    "intel": "intel", "genuineintel": "intel", "amd": "amd", "authenticamd": "amd", "ampere": "ampere",
    "hygon": "hygon", "hygongenuine": "hygon", "ibm": "ibm", "arm": "arm",
}  # fmt: skip
_VENDOR_OF_FAMILY = {
    "xeon": "intel", "celeron": "intel", "pentium": "intel", "epyc": "amd", "ryzen": "amd", "opteron": "amd",
    "threadripper": "amd", "neoverse": "arm", "cortex": "arm",
}  # fmt: skip
_POWER = re.compile(r"power[0-9]{1,2}[a-z]{0,3}")

_FAMILY_WORDS = frozenset({
    "xeon", "epyc", "core", "ryzen", "threadripper", "opteron", "athlon", "phenom", "sempron", "pentium", "celeron",
    "atom", "ultra", "phi", "platinum", "gold", "silver", "bronze", "pro", "max", "scalable", "series", "gen",
    "generation", "class", "embedded", "i3", "i5", "i7", "i9", "m3", "m5", "m7", "e3", "e5", "e7", "w3", "w5", "w7",
    "w9", "neoverse", "cortex", "power", "compatible", "rev", "x86", "x64", "amd64", "aarch64", "arm64", "i386", "i586",
    "i686", "risc", "riscv", "v", "ppc64le", "s390x",
})  # fmt: skip
"""Words in processor names that do not tell the generation, because they occur in names of several generations."""
# A number of one or two digits denotes a class within a family ("Ryzen 7", "Core 2"). "armv8" and "v8l" are instruction
# sets.
_FAMILY_NUMBER = re.compile(r"[0-9]{1,2}|0+|armv[0-9]+[a-z]*|v[0-9]+l")

IMPLEMENTERS = {
    0x41: "arm", 0x42: "broadcom", 0x43: "cavium", 0x46: "fujitsu", 0x48: "hisilicon", 0x4E: "nvidia",
    0x50: "apm", 0x51: "qualcomm", 0x61: "apple", 0x6D: "microsoft", 0xC0: "ampere",
}  # fmt: skip
"""Maps the implementer number of an ARM CPU to the vendor (Linux, arch/arm64/include/asm/cputype.h)."""

PARTS = {
    (0x41, 0xB76): "arm1176", (0x41, 0xC05): "cortex_a5", (0x41, 0xC07): "cortex_a7", (0x41, 0xC08): "cortex_a8",
    (0x41, 0xC09): "cortex_a9", (0x41, 0xC0E): "cortex_a17", (0x41, 0xC0F): "cortex_a15",
    (0x41, 0xD03): "cortex_a53", (0x41, 0xD04): "cortex_a35", (0x41, 0xD05): "cortex_a55",
    (0x41, 0xD07): "cortex_a57", (0x41, 0xD08): "cortex_a72", (0x41, 0xD09): "cortex_a73",
    (0x41, 0xD0A): "cortex_a75", (0x41, 0xD0B): "cortex_a76", (0x41, 0xD0C): "neoverse_n1",
    (0x41, 0xD40): "neoverse_v1", (0x41, 0xD41): "cortex_a78", (0x41, 0xD49): "neoverse_n2",
    (0x41, 0xD4F): "neoverse_v2", (0x41, 0xD84): "neoverse_v3", (0x41, 0xD8E): "neoverse_n3",
    (0x43, 0x0A1): "thunderx", (0x43, 0x0AF): "thunderx2", (0x46, 0x001): "a64fx", (0x48, 0xD01): "tsv110",
    (0xC0, 0xAC3): "ampere1", (0xC0, 0xAC4): "ampere1a",
}  # fmt: skip
"""Maps (implementer, part) of an ARM CPU to the name of the core (Linux, arch/arm{,64}/include/asm/cputype.h)."""


@lru_cache(maxsize=4096)
def processor_name(text: str) -> str | None:
    """Return the normalised name of a processor: `intel_xeon_platinum_8259cl`.

    `text` is a name that a CPU reports, a name that Kepler sends, or a normalised name, which is returned
    unchanged. Returns None if `text` names no processor: an emulated CPU as in QEMU, or words that processors of
    several generations have in common.
    """
    text = _CLOCK.sub(" ", _MARKS.sub(" ", text[:_MAX_CHARACTERS].casefold()))
    text = _SEPARATORS.sub(" ", _PARENTHESES.sub(r" \1 ", text)).strip()
    previous = None
    while text != previous:  # Removing one word can make two other words neighbours.
        if _NO_PROCESSOR.search(text):
            return None
        previous = text
        for pattern in (_CLOCK, _ARM_REVISION, _GENERATION, _CORES, _GRAPHICS, _FILLER_WORDS):
            text = " ".join(pattern.sub(" ", text).split())
        text = _XEON_VERSION.sub(r"\1\2", _CORE_2.sub("core 2", text))
        text = " ".join(_vendor_first(text.split()))
    words = text.split()
    return "_".join(words) if any(map(_tells_generation, words)) else None


def comparable_processor(value: object) -> str:
    """Return the form of a processor's name that comparisons use; "" if `value` names no processor.

    The form has no `+`, because some tools remove it: `intel_xeon_platinum_8480+` equals
    `intel_xeon_platinum_8480`. No two processors of the same family have names that differ only in the `+`.
    """
    name = processor_name(value) if isinstance(value, str) else None
    return "" if name is None else name.replace("+", "")


def x86_processor_name(vendor: str, family: int, model: int, stepping: int) -> str:
    """Return a name made from numbers in /proc/cpuinfo: `intel_family_6_model_85_stepping_7`.

    Use this name for a CPU whose reported name fits several generations: the numbers distinguish the generations.
    """
    return f"{_VENDORS.get(vendor.casefold(), 'x86')}_family_{family}_model_{model}_stepping_{stepping}"


def arm_processor_name(implementer: int, part: int) -> str | None:
    """Return the name of an ARM processor; None if `PARTS` does not list it."""
    name = PARTS.get((implementer, part))
    return None if name is None else f"{IMPLEMENTERS[implementer]}_{name}"


def _vendor_first(words: list[str]) -> list[str]:
    """Return the words of a processor's name, with the vendor as the first word.

    If no word is a vendor, the first word may imply one: "xeon" implies "intel". If it does not, the words are
    returned unchanged.
    """
    for index, word in enumerate(words):
        if word in _VENDORS:
            return [_VENDORS[word], *words[:index], *words[index + 1 :]]
    for word in words[:1]:
        vendor = _VENDOR_OF_FAMILY.get(word, "ibm" if _POWER.fullmatch(word) else None)
        if vendor is not None:
            return [vendor, *words]
    return words


def _tells_generation(word: str) -> bool:
    return not (
        word in _VENDORS or word in _FAMILY_WORDS or _FAMILY_NUMBER.fullmatch(word) or not word.replace("+", "")
    )
