"""What describes a machine: the attributes by which node types are told apart.

A description is a JSON object with these keys, all optional; an attribute that is not known is
absent (0 and empty text are the same as absent):

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
import msgspec

from kepler_core.errors import UsageError, close_matches

IDENTIFYING = ("processor", "cores", "chips", "memory", "frequency")
"""The attributes that make two machines the same node type or not, as in public model databases."""

_MOST = 10**12
_LONGEST = 1000


@attrs.frozen
class MachineSpec:
    """A machine. None: not known."""

    processor: str | None = None
    """Vendor, family and model in one word: "intel_xeon_platinum_8259cl"."""
    cores: int | None = None
    """Logical CPUs."""
    chips: int | None = None
    """Sockets."""
    memory: int | None = None
    """GiB."""
    frequency: int | None = None
    """The highest, in MHz."""
    vendor: str | None = None
    """What the CPU calls its maker, in small letters: "genuineintel"."""
    threads_per_core: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The attributes that are known."""
        return attrs.asdict(self, filter=lambda _, value: value is not None)

    @property
    def identity(self) -> dict[str, Any]:
        """The known attributes that identify the node type."""
        return identity(self.as_dict())


ATTRIBUTES = tuple(field.name for field in attrs.fields(MachineSpec))
_TEXTS = ("processor", "vendor")


@attrs.frozen
class Machine:
    """The machine that recordings are of."""

    spec: MachineSpec
    id: str | None = None
    """What it is called among the members of its node type; None: as its nodes are in the recordings."""


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What of a description identifies the node type: two machines are of one type if these are equal.

    What is no name or no positive number states nothing, as in the similarity of machines.
    """
    found: dict[str, Any] = {}
    for name in IDENTIFYING:
        value = spec.get(name)
        if name in _TEXTS:
            if isinstance(value, str) and (text := value.strip().casefold()):
                found[name] = text
        elif isinstance(value, int | float) and 0 < value < math.inf:
            found[name] = value
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The identifying attributes that both descriptions state, and state differently, as text."""
    mine, theirs = identity(one), identity(other)
    return [f"{name} {mine[name]}, not {theirs[name]}" for name in mine if theirs.get(name, mine[name]) != mine[name]]


def read_machine_spec(path: str | Path) -> MachineSpec:
    """The description in a JSON file, "-" for standard input; `UsageError`, one line, if it is none."""
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    try:
        document = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UsageError(f"{path}: not JSON: {error}") from error
    return machine_spec_from(document, str(path))


def machine_spec_from(document: Any, where: str) -> MachineSpec:
    """The description that a decoded document is; `UsageError` names the key that is wrong."""
    if not isinstance(document, dict):
        raise UsageError(f"{where}: a machine's description is an object, not {type(document).__name__}")
    if isinstance(document.get("attrs"), dict):
        raise UsageError(f'{where}: this is an entry of a node-type index; the description is what is under "attrs"')
    if document and all(key.isdecimal() and isinstance(value, dict) for key, value in document.items()):
        raise UsageError(f"{where}: this is a node-type index, not the description of one machine")
    found: dict[str, Any] = {}
    for key, value in document.items():
        if key not in ATTRIBUTES:
            raise UsageError(f"{where}: unknown key {key[:60]!r}; {close_matches(key[:60], ATTRIBUTES)}")
        if value is not None and (checked := _checked(key, value, where)):
            found[key] = checked
    return MachineSpec(**found)


def _checked(key: str, value: Any, where: str) -> str | int:
    shown = repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
    if key in _TEXTS:
        if not isinstance(value, str) or len(value) > _LONGEST:
            raise UsageError(f"{where}: {key}: {shown} is not a name")
        return value.strip()
    if type(value) is not int:
        raise UsageError(f"{where}: {key}: {shown} is not a whole number")
    if not 0 <= value <= _MOST:
        raise UsageError(f"{where}: {key}: {shown} cannot be right")
    return value
