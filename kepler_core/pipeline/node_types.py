"""The node types that a training's models belong to, and the files of the pipeline's other node types.

A training replaces the models of one or several node types. The version that the training publishes also contains the
models, profiles and index entries of all other node types, copied from the current version.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from kepler_core.errors import StoreError
from kepler_core.machine import Machine, MachineSpec, identity
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.kept_rows import FOLDER, kept_rows_file
from kepler_core.pipeline.node_tables import NODES_FOLDER, node_tables_file
from kepler_core.store.models import NodeType, read_models, read_node_types
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store

PROFILES = "profiles"


def profile_file(node_type: int) -> str:
    """Return the path of a node type's profile, relative to the pipeline's folder."""
    return f"{PROFILES}/{node_type}.json"


@attrs.frozen(eq=False)
class NodeTypeSlot:
    """The node type that a training's models belong to, and the pipeline version that they are added to."""

    node_type: int
    spec: MachineSpec
    stored: Mapping[int, NodeType]
    """Node types of the current version. Each key is the number of a node type."""
    snapshot: Snapshot | None
    """The current version of the pipeline; None if there is none yet."""
    next_version: int
    """Number of the version that will be published after the current version."""
    others: frozenset[int] = frozenset()
    """Numbers of the other node types whose models are replaced by the same training."""

    @property
    def replaced(self) -> frozenset[int]:
        """The numbers of all node types whose models the training replaces."""
        return self.others | {self.node_type}

    def kept_models(self) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
        """Return the metadata and files of all models that the training does not replace: models of other node types.

        The files are a mapping from path, relative to the pipeline's folder, to content.
        """
        if self.snapshot is None:
            return []
        return [
            (model.table_row, model.files())
            for model in read_models(self.snapshot)
            if model.node_type not in self.replaced
        ]

    def kept_isolation(self) -> dict[str, Any]:
        """Return how power was isolated for the other node types: the values of `isolation` in `metadata.json`.

        The keys are the numbers of the node types. Each value names an isolator, and the containers that ran on the
        idle machine.
        """
        if self.snapshot is None:
            return {}
        isolation = self.snapshot.read_json(METADATA_FILE).get("isolation")
        numbers = {str(number) for number in self.stored if number not in self.replaced}
        return {n: how for n, how in isolation.items() if n in numbers} if isinstance(isolation, dict) else {}

    def kept_profiles(self) -> dict[str, bytes]:
        """Return the profile files of all other node types, as a mapping from path to content.

        The paths are relative to the pipeline's folder.
        """
        return self._kept(PROFILES, profile_file)

    def kept_samples(self) -> dict[str, bytes]:
        """Return the files with stored rows of the training data of all other node types, by path.

        The paths are relative to the pipeline's folder.
        """
        return self._kept(FOLDER, kept_rows_file)

    def kept_node_tables(self) -> dict[str, bytes]:
        """Return the files with the tables of nodes of all other node types, as a mapping from path to content."""
        return self._kept(NODES_FOLDER, node_tables_file)

    def _kept(self, folder: str, file_of: Callable[[int], str]) -> dict[str, bytes]:
        """Return the files in a folder of the current version, except those of node types that get new models."""
        if self.snapshot is None:
            return {}
        replaced = {file_of(number) for number in self.replaced}
        names = [name for name in self.snapshot.names if name.startswith(folder + "/")]
        return {name: self.snapshot.read(name) for name in names if name not in replaced}

    def profile(self) -> dict[str, Any] | None:
        """Return the stored profile of this node type, or None if the store has no profile of it."""
        name = profile_file(self.node_type)
        if self.snapshot is None or name not in self.snapshot.names:
            return None
        return self.snapshot.read_json(name)


def find_slot(store: Store, pipeline: str, machine: Machine | None) -> NodeTypeSlot:
    """Return the `NodeTypeSlot` of the node type with the machine's attributes. The node type may be new.

    Without a machine, return the `NodeTypeSlot` of the node type that has no attributes.
    """
    spec = MachineSpec() if machine is None else machine.spec
    snapshot = None
    next_version = store.next_version(pipeline)
    if pipeline in store.pipelines():
        try:
            snapshot = store.snapshot(pipeline)
            types = read_node_types(snapshot)
        except StoreError:
            if machine is not None:
                raise  # node types that cannot be read cannot be copied: the new version would lose their models
            snapshot, types = None, {}
    else:
        types = {}
    return NodeTypeSlot(matching_type(types, spec.as_dict()), spec, types, snapshot, next_version)


def find_slots(store: Store, pipeline: str, machines: Sequence[Machine | None]) -> list[NodeTypeSlot]:
    """Return a `NodeTypeSlot` for each machine. The machines are of different node types."""
    slots: list[NodeTypeSlot] = []
    for machine in machines:
        if not slots:
            slots.append(find_slot(store, pipeline, machine))
            continue
        spec = MachineSpec() if machine is None else machine.spec
        before = slots[-1]
        number = before.node_type
        types = {**before.stored, number: with_members(before.stored.get(number), number, before.spec, ())}
        number = matching_type(types, spec.as_dict())
        slots.append(attrs.evolve(before, node_type=number, spec=spec, stored=types))
    return slots


def combined_index(slots: Sequence[NodeTypeSlot], members: Sequence[Collection[str]]) -> dict[str, Any]:
    """Return the content of `node_type_index.json`, with machines added to the node type of each slot."""
    types = dict(slots[0].stored)
    for slot, own in zip(slots, members, strict=True):
        types[slot.node_type] = with_members(types.get(slot.node_type), slot.node_type, slot.spec, own)
    return node_type_index(types)


def matching_type(types: Mapping[int, NodeType], spec: Mapping[str, Any]) -> int:
    """Return the number of the node type whose attributes equal a description, or the next free number."""
    wanted = identity(spec)
    same = [number for number, node_type in sorted(types.items()) if identity(node_type.spec) == wanted]
    return same[0] if same else max(types, default=-1) + 1


def with_members(before: NodeType | None, number: int, spec: MachineSpec, members: Collection[str]) -> NodeType:
    """Return a node type with the machines `members` added.

    A stored node type (`before`) keeps its attributes, because a user may have edited them.
    """
    if before is None:
        return NodeType(number, spec.identity, tuple(sorted(members)))
    return NodeType(number, before.spec, tuple(sorted({*before.members, *members})))


def node_type_index(types: Mapping[int, NodeType]) -> dict[str, Any]:
    """Return the content of `node_type_index.json`."""
    return {
        str(number): {"attrs": dict(node_type.spec), "members": list(node_type.members)}
        for number, node_type in sorted(types.items())
    }
