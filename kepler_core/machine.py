"""Descriptions of machines, and the attributes that distinguish node types.

A description is a JSON object with the optional keys below. A key that is absent, or whose value is 0 or
empty, means that the attribute is not known.

    {"processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2, "memory": 377,
     "frequency": 3500, "vendor": "genuineintel", "threads_per_core": 2}
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import UsageError, close_matches
from kepler_core.messages import quoted
from kepler_core.processor_names import comparable_processor, processor_name

IDENTIFYING = ("processor", "cores", "chips", "memory", "frequency")
"""Attributes that are equal for all machines of a node type. Public databases of Kepler models use them too."""

MAX_ATTRIBUTE = 10**12
"""Maximum value of an attribute that is a number."""
_MAX_CHARACTERS = 1000


@attrs.frozen
class MachineSpec:
    """Description of a machine. An attribute that is not known is None."""

    processor: str | None = None
    """Vendor, family and model of the CPU in one word, e.g. "intel_xeon_platinum_8259cl"."""
    cores: int | None = None
    """Number of logical CPUs."""
    chips: int | None = None
    """Number of CPU sockets."""
    memory: int | None = None
    """Memory in GiB."""
    frequency: int | None = None
    """Highest CPU frequency in MHz."""
    vendor: str | None = None
    """The CPU's vendor ID in lower case, e.g. "genuineintel"."""
    threads_per_core: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the known attributes of the machine, by name."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    @property
    def identity(self) -> dict[str, Any]:
        """The known attributes that identify the node type, in the form of a pipeline's `node_type_index.json`."""
        attributes = identity(self.as_dict())
        if "processor" in attributes:
            attributes["processor"] = processor_name(self.processor or "")
        return attributes


ATTRIBUTES = tuple(field.name for field in attrs.fields(MachineSpec))
_TEXTS = ("processor", "vendor")
NUMBERS = tuple(name for name in ATTRIBUTES if name not in _TEXTS)
"""Attributes that are numbers."""


@attrs.frozen
class Machine:
    """The machine that recordings were made on."""

    spec: MachineSpec
    id: str | None = None
    """Name under which `node_type_index.json` lists the machine as a member of its node type. If it is None, the node
    names in the recordings are listed."""


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known identifying attributes, which are equal for two machines of the same node type.

    The processor's name has the form that `kepler_core.processor_names.comparable_processor` returns. An attribute is
    left out as unknown if its value is neither a name nor a positive number. A processor's name is also left out if it
    fits several generations of processors. The search for similar machines ignores these attributes, too.
    """
    attributes: dict[str, Any] = {}
    for name in IDENTIFYING:
        value = spec.get(name)
        if name == "processor":
            if processor := comparable_processor(value):
                attributes[name] = processor
        elif isinstance(value, int | float) and 0 < value < math.inf:
            attributes[name] = value
    return attributes


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Describe the identifying attributes in which two machines differ: "cores 8, not 96". Skip unknown attributes."""
    first, second = identity(one), identity(other)
    return [f"{name} {value}, not {second[name]}" for name, value in first.items() if second.get(name, value) != value]


def read_machine_spec(path: str | Path) -> MachineSpec:
    """Read a machine's description from a JSON file; "-" is standard input. Raises `UsageError`."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    try:
        document = decode_json(content, Any)
    except DocumentError as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    return machine_spec_from(document, str(path))


def machine_spec_from(document: Any, where: str) -> MachineSpec:
    """Check a decoded JSON document and return it as a machine's description.

    `where` is the name of the document. Raises `UsageError` with this name and, if one value is wrong, its key.
    """
    if not isinstance(document, dict):
        raise UsageError(f"a machine's description is an object, not {type(document).__name__}", document=where)
    if isinstance(document.get("attrs"), dict):
        raise UsageError(
            'this is an entry of a node-type index; the description is the object under "attrs"', document=where
        )
    if document and all(key.isdecimal() and isinstance(value, dict) for key, value in document.items()):
        raise UsageError("this is a node-type index, not the description of one machine", document=where)
    attributes: dict[str, Any] = {}
    for key, value in document.items():
        if key not in ATTRIBUTES:
            raise UsageError(f"unknown key {quoted(key)}; {close_matches(key[:60], ATTRIBUTES)}", document=where)
        if value is not None and (checked := _checked(key, value, where)):
            attributes[key] = checked
    return MachineSpec(**attributes)


def _checked(key: str, value: Any, where: str) -> str | int:
    if key in _TEXTS:
        if not isinstance(value, str) or len(value) > _MAX_CHARACTERS:
            raise UsageError(f"{quoted(value)} is not a name", path=(key,), document=where)
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # Some tools write whole numbers as 96.0.
    if type(value) is not int:
        raise UsageError(f"{quoted(value)} is not a whole number", path=(key,), document=where)
    if not 0 <= value <= MAX_ATTRIBUTE:
        raise UsageError(f"{quoted(value)} is not between 0 and {MAX_ATTRIBUTE}", path=(key,), document=where)
    return value
