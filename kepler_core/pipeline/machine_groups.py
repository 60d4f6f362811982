"""The machines of a training over several node types: descriptions by node, and groups of nodes of one type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.errors import UsageError
from kepler_core.honesty.node_names import host_of
from kepler_core.machine import Machine, MachineSpec, identity, machine_spec_from
from kepler_core.messages import first_of, quoted
from kepler_core.pipeline.recorded_machines import RecordedMachines
from kepler_core.recording.observations import Observations
from kepler_core.recording.subsets import of_streams

MachineSpecs = Mapping[str, MachineSpec]
"""Descriptions of machines, by the name of the node."""
_SHOWN_NODES = 5


@attrs.frozen(eq=False)
class MachineGroup:
    """The nodes of one node type, and their observations."""

    machine: Machine | None
    """The machine of this node type; None if it is not known."""
    observations: Observations
    idle: Observations | None = None
    """Observations of the idle machines of this type."""


def machine_specs_from(document: Mapping[str, Any], path: str) -> dict[str, MachineSpec]:
    """Return the descriptions of machines in the JSON object of a file, by node.

    The object has one of two forms: its keys are names of nodes and its values are descriptions of machines, or it is
    an index of node types (`node_type_index.json`). Raises `UsageError`.
    """
    specs: dict[str, MachineSpec] = {}
    for name, value in document.items():
        where = f"{path}: {quoted(name, 60)}"
        if isinstance(value, dict) and isinstance(value.get("attrs"), dict):
            spec = machine_spec_from(value["attrs"], where)
            for member in _members(value, where):
                if member in specs:
                    raise UsageError(f"{where}: the member {quoted(member, 60)} is in two node types")
                specs[member] = spec
        else:
            specs[name] = machine_spec_from(value, where)
    if not specs:
        raise UsageError(f'{path}: no machine is described; expected {{"NODE": {{"processor": …, "cores": …}}, …}}')
    return specs


def _members(entry: Mapping[str, Any], where: str) -> list[str]:
    members = entry.get("members", [])
    if not (isinstance(members, list) and all(isinstance(member, str) for member in members)):
        raise UsageError(f"{where}: members are not a list of names")
    return members


def most_cores(specs: MachineSpecs) -> int | None:
    """Return the number of CPUs of the largest machine; None if a machine's number is unknown."""
    cores = [spec.cores for spec in specs.values()]
    return max((number for number in cores if number is not None), default=None) if None not in cores else None


def machine_groups(
    observations: Observations, specs: MachineSpecs, idle: Observations | None = None
) -> list[MachineGroup]:
    """Divide observations by the type of their nodes. The type with the most samples comes first.

    Machines whose identifying attributes are equal are of one type. A node's description is found under the name of the
    node, or under its name without the port. Raises `UsageError` if a node of `observations` has no description.
    """
    idle_types = None if idle is None else _types(idle, specs)
    return _groups(observations, _types(observations, specs), idle, idle_types, "add them to --machine-specs")


def groups_from_metrics(
    observations: Observations, machines: RecordedMachines, idle: Observations | None = None
) -> tuple[list[MachineGroup], tuple[str, ...]]:
    """Divide observations as `machine_groups` does, by the descriptions in the recordings' own metrics.

    Also return notes about what is missing, impossible or contradictory in these descriptions.
    """
    nodes = machines.of_streams([*observations.streams, *([] if idle is None else idle.streams)])
    types = [nodes.specs.get(stream) for stream in observations.streams]
    idle_types = None if idle is None else [nodes.specs.get(stream) for stream in idle.streams]
    advice = "no metric states the processor, the CPUs or the memory of them; describe all nodes in a file"
    return _groups(observations, types, idle, idle_types, f"{advice} (--machine-specs FILE)"), nodes.notes


def _groups(
    observations: Observations,
    types: Sequence[MachineSpec | None],
    idle: Observations | None,
    idle_types: Sequence[MachineSpec | None] | None,
    advice: str,
) -> list[MachineGroup]:
    """Divide observations by the descriptions of their streams' machines.

    `types` and `idle_types` have a description for each stream. `advice` ends the error for a stream without one.
    """
    if missing := sorted(
        {stream.node for stream, spec in zip(observations.streams, types, strict=True) if spec is None}
    ):
        shown = first_of([quoted(node, 60) for node in missing], _SHOWN_NODES)
        raise UsageError(f"no description of {len(missing)} of the recordings' nodes: {shown}; {advice}")
    keys = np.array([_key(spec) for spec in types])
    idle_keys = None if idle_types is None else np.array([_key(spec) for spec in idle_types])
    samples = np.bincount(observations.sample_stream, minlength=len(keys))
    groups = {}
    for key in dict.fromkeys(keys.tolist()):
        spec = types[keys.tolist().index(key)]
        assert spec is not None  # checked above
        own_idle = None
        if idle is not None and idle_keys is not None and (idle_keys == key).any():
            own_idle = of_streams(idle, idle_keys == key)
        group = MachineGroup(Machine(spec), of_streams(observations, keys == key), own_idle)
        groups[-int(samples[keys == key].sum()), key] = group
    return [groups[key] for key in sorted(groups)]


def _key(spec: MachineSpec | None) -> str:
    return "" if spec is None else json.dumps(identity(spec.as_dict()), sort_keys=True)


def _types(observations: Observations, specs: MachineSpecs) -> Sequence[MachineSpec | None]:
    """Return the description of each stream's machine; None for a stream whose machine has no description."""
    by_host: dict[str, MachineSpec | None] = {}
    for name, spec in specs.items():
        if host := host_of(name):
            # a host with several descriptions, e.g. under two ports, cannot be found without the port
            by_host[host] = spec if host not in by_host or by_host[host] == spec else None
    return [specs.get(stream.node) or by_host.get(host_of(stream.node) or "") for stream in observations.streams]
