"""Index files of node types, and functions that match machines with node types or add machines to them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from kepler_core.atomic_files import whole_file
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import UsageError
from kepler_core.json_files import indented_json
from kepler_core.machine import MachineSpec, machine_spec_from
from kepler_core.messages import quoted
from kepler_core.pipeline.node_types import matching_type, node_type_index, with_members
from kepler_core.store.models import NodeType
from kepler_profiler.similarity import Likeness, SpecTable


@attrs.frozen
class Match:
    """A node type, and how similar a machine is to it."""

    node_type: NodeType
    likeness: Likeness


def match(types: Mapping[int, NodeType], spec: Mapping[str, Any]) -> list[Match]:
    """Return all node types, the most similar to a machine first.

    Equally similar node types are in order of their numbers.
    """
    numbers = sorted(types)
    table = SpecTable([types[number].spec for number in numbers])
    matches = [Match(types[number], table.likeness(spec, row)) for row, number in enumerate(numbers)]
    return sorted(matches, key=lambda match: -match.likeness.similarity)


def add(types: Mapping[int, NodeType], spec: MachineSpec, member: str | None) -> tuple[dict[int, NodeType], int]:
    """Add a machine to the node type with an equal description, or to a new node type.

    Returns the changed node types and the number of the machine's node type.
    """
    number = matching_type(types, spec.as_dict())
    return {**types, number: with_members(types.get(number), number, spec, [] if member is None else [member])}, number


def read_index(path: str | Path) -> dict[int, NodeType]:
    """Return the node types in an index file. Raises `UsageError` if the file is not an index file."""
    try:
        document = decode_json(Path(path).read_bytes(), Any)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except DocumentError as error:
        raise UsageError(f"{path}: not a node-type index: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}: a node-type index is an object whose keys are numbers, not {type(document).__name__}"
        )
    types = {}
    for number, entry in document.items():
        where = f"{path}: {quoted(number, 40)}"
        if not (number.isdecimal() and number.isascii() and len(number) < 10):
            raise UsageError(f'{where} is not the number of a node type (an index is {{"0": {{"attrs": …}}, …}})')
        if not (isinstance(entry, dict) and isinstance(entry.get("attrs"), dict)):
            raise UsageError(f'{where} has no "attrs"')
        members = entry.get("members", [])
        if not (isinstance(members, list) and all(isinstance(member, str) for member in members)):
            raise UsageError(f"{where}: members are not a list of names")
        machine_spec_from(entry["attrs"], where)
        attributes = {name: _whole(value) for name, value in entry["attrs"].items()}
        types[int(number)] = NodeType(int(number), attributes, tuple(members))
    return types


def _whole(value: Any) -> Any:
    """Return a float that is a whole number as an int, because Kepler rejects numbers like 96.0."""
    return int(value) if isinstance(value, float) else value


def write_index(path: str | Path, types: Mapping[int, NodeType]) -> None:
    """Write node types to an index file. If writing fails, the file is unchanged."""
    content = indented_json(node_type_index(types))
    path = Path(path)
    try:
        with whole_file(path, f".{os.getpid()}") as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; the file is unchanged") from error
