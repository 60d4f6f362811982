"""Which node type of a pipeline a machine is, and what other machines' training left there."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import attrs

from kepler_core.errors import StoreError
from kepler_core.machine import Machine, MachineSpec, identity
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.store.models import NodeType, read_models, read_node_types
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store

PROFILES = "profiles"


def profile_file(node_type: int) -> str:
    """Where a node type's profile is, below its pipeline."""
    return f"{PROFILES}/{node_type}.json"


@attrs.frozen(eq=False)
class NodeTypeSlot:
    """Where in a pipeline a training's models go."""

    node_type: int
    spec: MachineSpec
    others: Mapping[int, NodeType]
    """The node types that were there before."""
    snapshot: Snapshot | None
    """The pipeline as it was before."""
    next_version: int
    """The version that builds on that."""

    def index(self, members: Collection[str]) -> dict[str, Any]:
        """`node_type_index.json` with this machine in it."""
        found = dict(self.others)
        found[self.node_type] = with_members(found.get(self.node_type), self.node_type, self.spec, members)
        return node_type_index(found)

    def kept_models(self) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
        """Models of the other node types, since a training replaces only its own: metadata, and files by
        path below the pipeline, as they are."""
        if self.snapshot is None:
            return []
        kept = []
        for model in read_models(self.snapshot):
            if model.node_type != self.node_type:
                whole = (f"{model.path}.zip", f"{model.path}.json")
                names = [name for name in self.snapshot.names if name.startswith(model.path + "/") or name in whole]
                files = {name: self.snapshot.read(name) for name in sorted(names)}
                place = {"source": model.source, "output_type": model.output_type, "feature_group": model.feature_group}
                row = {**place, "trainer": model.trainer, "node_type": model.node_type, "model_name": model.name}
                kept.append(({**model.metadata, **row}, files))
        return kept

    def kept_isolation(self) -> dict[str, Any]:
        """How the DynPower models of the other node types were isolated, from `metadata.json`."""
        if self.snapshot is None:
            return {}
        found = self.snapshot.read_json(METADATA_FILE).get("isolation")
        numbers = {str(number) for number in self.others if number != self.node_type}
        return {n: how for n, how in found.items() if n in numbers} if isinstance(found, dict) else {}

    def kept_profiles(self) -> dict[str, bytes]:
        """Profiles of the other node types."""
        if self.snapshot is None:
            return {}
        names = [name for name in self.snapshot.names if name.startswith(PROFILES + "/")]
        return {name: self.snapshot.read(name) for name in names if name != profile_file(self.node_type)}

    def profile(self) -> dict[str, Any] | None:
        """This node type's profile, as it was stored before."""
        name = profile_file(self.node_type)
        if self.snapshot is None or name not in self.snapshot.names:
            return None
        return self.snapshot.read_json(name)


def find_slot(store: Store, pipeline: str, machine: Machine | None) -> NodeTypeSlot:
    """The node type of a machine in a pipeline: the one that its description equals, else a new one.

    A machine that nobody describes equals the node type without attributes.
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
                raise  # what other machines' training left there would be lost
            snapshot, types = None, {}
    else:
        types = {}
    return NodeTypeSlot(matching_type(types, spec.as_dict()), spec, types, snapshot, next_version)


def matching_type(types: Mapping[int, NodeType], spec: Mapping[str, Any]) -> int:
    """The number of the node type that a description equals, or the first free one."""
    wanted = identity(spec)
    same = [number for number, found in sorted(types.items()) if identity(found.spec) == wanted]
    return same[0] if same else max(types, default=-1) + 1


def with_members(before: NodeType | None, number: int, spec: MachineSpec, members: Collection[str]) -> NodeType:
    """A node type with more members; one that is there keeps its attributes as somebody wrote them."""
    if before is None:
        return NodeType(number, spec.identity, tuple(sorted(members)))
    return NodeType(number, before.spec, tuple(sorted({*before.members, *members})))


def node_type_index(types: Mapping[int, NodeType]) -> dict[str, Any]:
    """The content of `node_type_index.json`."""
    return {
        str(number): {"attrs": dict(found.spec), "members": list(found.members)}
        for number, found in sorted(types.items())
    }
