"""`profile node-types`: the node types of a pipeline or an index file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import StoreError, UsageError
from kepler_core.machine import MachineSpec

if TYPE_CHECKING:
    from kepler_core.store.models import NodeType

F = TypeVar("F", bound=Callable[..., Any])


def _place(command: F) -> F:
    """The options that say which node types are meant."""
    for option in (
        click.option("--index", metavar="FILE", help="A node_type_index.json."),
        click.option("-p", "--pipeline", help="Only this pipeline's.  [default: all of the store]"),
        click.option("-s", "--store", metavar="DIR|URL", help="The model store."),
    ):
        command = option(command)
    return command


@click.group("node-types")
def node_types() -> None:
    """The kinds of machines that models are of: list them, match a machine, add one."""


@node_types.command("list")
@_place
@json_option
def list_(store: str | None, pipeline: str | None, index: str | None, as_json: bool) -> None:
    """List the node types of a store's pipelines, or of an index file."""
    found = _read(store, pipeline, index)
    if as_json:
        print_json(
            {
                where: {
                    str(number): {"machine_spec": dict(one.spec), "members": list(one.members)}
                    for number, one in types.items()
                }
                for where, types in found.items()
            }
        )
        return
    print_table(
        [
            (where, number, *_attributes(one.spec), ", ".join(one.members[:3]) + (" …" if len(one.members) > 3 else ""))
            for where, types in found.items()
            for number, one in sorted(types.items())
        ],
        ("pipeline", "type", "processor", "cores", "chips", "memory GiB", "MHz", "members"),
    )


@node_types.command("match")
@_place
@click.option("--spec", "--machine-spec", "spec_file", metavar="FILE", help="A machine.  [default: this one]")
@click.option("--most", type=click.IntRange(1), default=20, show_default=True, help="Node types to show.")
@json_option
def match_(
    store: str | None, pipeline: str | None, index: str | None, spec_file: str | None, most: int, as_json: bool
) -> None:
    """Say how alike a machine is to each node type, attribute by attribute.

    1 is a machine that is the same. What only one of the two machines states is uncertain; what differs
    is loose: similarity = 1 - looseness - 0.6 x uncertainty.
    """
    from kepler_core.selection.similarity import rounded_down
    from kepler_profiler.node_types import match

    spec = _spec(spec_file)
    found = [(where, one) for where, types in _read(store, pipeline, index).items() for one in match(types, spec)]
    found.sort(key=lambda pair: -pair[1].likeness.similarity)
    if as_json:
        print_json(
            {
                "machine_spec": spec,
                "matches": [
                    {
                        "pipeline": where,
                        "node_type": one.node_type.number,
                        "similarity": rounded_down(one.likeness.similarity, 6),
                        "looseness": round(one.likeness.looseness, 6),
                        "uncertainty": round(one.likeness.uncertainty, 6),
                        "attributes": one.likeness.attributes,
                    }
                    for where, one in found[:most]
                ],
            }
        )
        return
    click.echo("machine: " + (", ".join(f"{key} {value}" for key, value in spec.items()) or "nothing is known of it"))
    click.echo("")
    print_table(
        [
            (
                where,
                one.node_type.number,
                f"{rounded_down(one.likeness.similarity, 3):.3f}",
                f"{one.likeness.looseness:.3f}",
                f"{one.likeness.uncertainty:.3f}",
                *(_shown(one.likeness.attributes, name) for name in _ATTRIBUTES),
                one.node_type.spec.get("processor", "unknown"),
            )
            for where, one in found[:most]
        ],
        ("pipeline", "type", "similarity", "looseness", "uncertainty", *_ATTRIBUTES, "its processor"),
    )
    if len(found) > most:
        click.echo(f"and {len(found) - most} more")
    click.echo("\nPer attribute: 1 the same, 0 nothing in common, ? only one of the two states it, - neither does.")


@node_types.command("add")
@_place
@click.option("--spec", "--machine-spec", "spec_file", metavar="FILE", help="A machine.  [default: this one]")
@click.option("--member", metavar="ID", help="What the machine is called.")
@json_option
def add_(
    store: str | None, pipeline: str | None, index: str | None, spec_file: str | None, member: str | None, as_json: bool
) -> None:
    """Add a machine to the node types of a pipeline or of an index file.

    One that equals a node type becomes a member of it. A pipeline gets a new version with the changed
    index and the same models.
    """
    from kepler_core.machine import machine_spec_from
    from kepler_profiler.node_types import add, read_index, write_index

    spec = machine_spec_from(_spec(spec_file), spec_file or "this machine")
    if not spec.identity:
        raise UsageError(f"{spec_file or 'this machine'}: nothing is known of the machine; a node type needs something")
    if index is not None:
        if store is not None or pipeline is not None:
            raise UsageError("give --index, or --store and --pipeline")
        before = read_index(index) if Path(index).exists() else {}
        types, number = add(before, spec, member)
        write_index(index, types)
    else:
        if store is None or pipeline is None:
            raise UsageError("which node types: give --index FILE, or --store and --pipeline")
        before, number = _add_to_pipeline(store, pipeline, spec, member)
    if as_json:
        print_json({"node_type": number, "new": number not in before})
    else:
        click.echo(f"{'new node type' if number not in before else 'node type'} {number}")


def _add_to_pipeline(
    location: str, pipeline: str, spec: MachineSpec, member: str | None
) -> tuple[dict[int, NodeType], int]:
    import msgspec

    from kepler_core.pipeline.node_types import node_type_index
    from kepler_core.store import open_store
    from kepler_core.store.layout import NODE_TYPE_INDEX
    from kepler_core.store.manifest import MANIFEST_FILE
    from kepler_core.store.models import read_node_types
    from kepler_profiler.node_types import add

    store = open_store(location)
    store.check_writable(pipeline)
    version = store.next_version(pipeline)
    snapshot = store.snapshot(pipeline)
    before = read_node_types(snapshot)
    types, number = add(before, spec, member)
    files = {name: snapshot.read(name) for name in sorted(snapshot.names) if name != MANIFEST_FILE}
    files[NODE_TYPE_INDEX] = msgspec.json.format(msgspec.json.encode(node_type_index(types)), indent=1) + b"\n"
    store.publish(pipeline, files, version=version)
    return before, number


_ATTRIBUTES = ("processor", "cores", "chips", "memory", "frequency")


def _attributes(spec: Mapping[str, Any]) -> list[Any]:
    return [spec.get(name) for name in _ATTRIBUTES]


def _shown(attributes: Mapping[str, float | None], name: str) -> str:
    if name not in attributes:
        return "-"
    likeness = attributes[name]
    return "?" if likeness is None else f"{likeness:.3f}"


def _spec(path: str | None) -> dict[str, Any]:
    if path is not None:
        from kepler_core.machine import read_machine_spec

        return read_machine_spec(path).as_dict()
    from kepler_profiler.machine import discover

    return discover().spec.as_dict()


def _read(store: str | None, pipeline: str | None, index: str | None) -> dict[str, dict[int, NodeType]]:
    """Where -> node types by number."""
    if (store is None) == (index is None):
        raise UsageError("which node types: give --store DIR (and --pipeline), or --index FILE")
    if index is not None:
        from kepler_profiler.node_types import read_index

        if pipeline is not None:
            raise UsageError("--pipeline goes with --store")
        return {index: read_index(index)}
    from kepler_core.store import open_store
    from kepler_core.store.models import read_node_types

    assert store is not None
    opened = open_store(store)
    names = opened.pipelines() if pipeline is None else [pipeline]
    if not names:
        raise StoreError(f"{store}: no pipelines in it")
    return {name: read_node_types(opened.snapshot(name)) for name in names}
