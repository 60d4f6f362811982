"""Descriptions of machines, and the attributes that distinguish node types.

A description is a JSON object with these optional keys. An unknown attribute is absent, 0 or empty:

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

IDENTIFYING = ("processor", "cores", "chips", "memory", "frequency")
"""Attributes that two machines of the same node type must share, as in public model databases."""

_MAX_NUMBER = 10**12
_MAX_CHARACTERS = 1000


@attrs.frozen
class MachineSpec:
    """Description of a machine. An attribute that is not known is None."""

    processor: str | None = None
    """Vendor, family and model in one word: "intel_xeon_platinum_8259cl"."""
    cores: int | None = None
    """Logical CPUs."""
    chips: int | None = None
    """CPU sockets."""
    memory: int | None = None
    """Memory in GiB."""
    frequency: int | None = None
    """Highest CPU frequency in MHz."""
    vendor: str | None = None
    """The CPU's vendor ID in lower case: "genuineintel"."""
    threads_per_core: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the known attributes."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    @property
    def identity(self) -> dict[str, Any]:
        """The known attributes that identify the node type."""
        return identity(self.as_dict())


ATTRIBUTES = tuple(field.name for field in attrs.fields(MachineSpec))
_TEXTS = ("processor", "vendor")


@attrs.frozen
class Machine:
    """The machine that recordings were made on."""

    spec: MachineSpec
    id: str | None = None
    """Its name in the node type's list of members. None: the names of its nodes in the recordings."""


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the known identifying attributes. Two machines are of the same node type if they are equal.

    A value that is neither a name nor a positive number counts as unknown, as it does for the similarity
    of machines.
    """
    attributes: dict[str, Any] = {}
    for name in IDENTIFYING:
        value = spec.get(name)
        if name in _TEXTS:
            if isinstance(value, str) and (text := value.strip().casefold()):
                attributes[name] = text
        elif isinstance(value, int | float) and 0 < value < math.inf:
            attributes[name] = value
    return attributes


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Describe the identifying attributes that two descriptions know but disagree on, e.g. "cores 8, not 96"."""
    first, second = identity(one), identity(other)
    return [f"{name} {value}, not {second[name]}" for name, value in first.items() if second.get(name, value) != value]


def read_machine_spec(path: str | Path) -> MachineSpec:
    """Read a description from a JSON file; "-" is standard input. Raises `UsageError`."""
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
    """Check a decoded JSON document and return it as a description.

    Raises `UsageError` with `where` as its document and the wrong key as its path.
    """
    if not isinstance(document, dict):
        raise UsageError(f"a machine's description is an object, not {type(document).__name__}", document=where)
    if isinstance(document.get("attrs"), dict):
        raise UsageError(
            'this is an entry of a node-type index; the description is what is under "attrs"', document=where
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
    if type(value) is not int:
        raise UsageError(f"{quoted(value)} is not a whole number", path=(key,), document=where)
    if not 0 <= value <= _MAX_NUMBER:
        raise UsageError(f"{quoted(value)} cannot be right", path=(key,), document=where)
    return value
