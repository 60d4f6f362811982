"""The commands `profile node-types …`, which show and change the node types of a pipeline or of an index file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import StoreError, UsageError
from kepler_core.machine import MachineSpec
from kepler_core.urls import shown_location

if TYPE_CHECKING:
    from kepler_core.store.models import NodeType
    from kepler_profiler.node_types import Match

F = TypeVar("F", bound=Callable[..., Any])

_ATTRIBUTES = ("processor", "cores", "chips", "memory", "frequency")
_SHOWN_MEMBERS = 3


def _node_types_options(command: F) -> F:
    """Add the options that tell where a command reads the node types: a store, a pipeline, or an index file."""
    for option in (
        click.option("--index", metavar="FILE", help="Use the node types in this file, a node_type_index.json."),
        click.option("-p", "--pipeline", help="Use only this pipeline of the store.  [default: all pipelines]"),
        click.option("-s", "--store", metavar="DIR|URL", help="Use the node types in this model store."),
    ):
        command = option(command)
    return command


def _spec_option(command: F) -> F:
    return click.option(
        "--spec",
        "--machine-spec",
        "spec_file",
        metavar="FILE",
        help="File with a machine's description.  [default: this machine]",
    )(command)


@click.group("node-types")
def node_types() -> None:
    """List node types, match a machine with them, or add a machine to them."""


@node_types.command("list", epilog=examples("profile node-types list -s models"))
@_node_types_options
@json_option
def list_(store: str | None, pipeline: str | None, index: str | None, as_json: bool) -> None:
    """List the node types of a store's pipelines, or of an index file."""
    by_pipeline = _read(store, pipeline, index)
    if as_json:
        print_json(
            {
                where: {
                    str(number): {"machine_spec": dict(entry.spec), "members": list(entry.members)}
                    for number, entry in types.items()
                }
                for where, types in by_pipeline.items()
            }
        )
        return
    print_table(
        [
            (where, number, *(entry.spec.get(name) for name in _ATTRIBUTES), _members_text(entry.members))
            for where, types in by_pipeline.items()
            for number, entry in sorted(types.items())
        ],
        ("pipeline", "type", "processor", "cores", "chips", "memory GiB", "MHz", "members"),
    )


@node_types.command("match", epilog=examples("profile node-types match -s models --spec other.json"))
@_node_types_options
@_spec_option
@click.option(
    "--most", type=click.IntRange(1), default=20, show_default=True, help="Maximum number of node types to show."
)
@json_option
def match_(
    store: str | None, pipeline: str | None, index: str | None, spec_file: str | None, most: int, as_json: bool
) -> None:
    """Show how similar a machine is to each node type, by attribute.

    The similarity is 1 if all attributes are equal. Each attribute whose two values differ increases the looseness.
    Each attribute that is known only for the machine, or only for the node type, increases the uncertainty. The
    formula is: similarity = 1 - looseness - 0.6 x uncertainty.
    """
    from kepler_profiler.node_types import match

    spec = _spec(spec_file)
    by_pipeline = _read(store, pipeline, index)
    matches = [(where, entry) for where, types in by_pipeline.items() for entry in match(types, spec)]
    matches.sort(key=lambda pair: -pair[1].likeness.similarity)
    if as_json:
        print_json({"machine_spec": spec, "matches": [_match_json(where, entry) for where, entry in matches[:most]]})
        return
    click.echo("machine: " + (", ".join(f"{key} {value}" for key, value in spec.items()) or "no attribute is known"))
    click.echo("")
    print_table(
        [_match_row(where, entry) for where, entry in matches[:most]],
        ("pipeline", "type", "similarity", "looseness", "uncertainty", *_ATTRIBUTES, "its processor"),
    )
    if len(matches) > most:
        click.echo(f"and {len(matches) - most} more")
    click.echo("\nFor each attribute: 1 = equal, 0 = nothing in common, ? = known for only one, - = not known.")


def _match_json(where: str, match: Match) -> dict[str, Any]:
    from kepler_core.selection.similarity import rounded_down

    return {
        "pipeline": where,
        "node_type": match.node_type.number,
        "similarity": rounded_down(match.likeness.similarity, 6),
        "looseness": round(match.likeness.looseness, 6),
        "uncertainty": round(match.likeness.uncertainty, 6),
        "attributes": match.likeness.attributes,
    }


def _match_row(where: str, match: Match) -> tuple[Any, ...]:
    from kepler_core.selection.similarity import rounded_down

    return (
        where,
        match.node_type.number,
        f"{rounded_down(match.likeness.similarity, 3):.3f}",
        f"{match.likeness.looseness:.3f}",
        f"{match.likeness.uncertainty:.3f}",
        *(_likeness_text(match.likeness.attributes, name) for name in _ATTRIBUTES),
        match.node_type.spec.get("processor", "unknown"),
    )


@node_types.command(
    "add", epilog=examples("profile node-types add -s models -p quickstart --spec other.json --member rack2")
)
@_node_types_options
@_spec_option
@click.option("--member", metavar="ID", help="Name of the machine in the node type's list of members.")
@json_option
def add_(
    store: str | None, pipeline: str | None, index: str | None, spec_file: str | None, member: str | None, as_json: bool
) -> None:
    """Add a machine to the node types of a pipeline or of an index file.

    If the machine equals a node type, it becomes a member of this node type. Otherwise, a new node type is
    added. If a pipeline's node types are changed, a new version of the pipeline is published, with the changed
    index and the same models.
    """
    from kepler_core.machine import machine_spec_from
    from kepler_profiler.node_types import add, read_index, write_index

    where = spec_file or "this machine"
    spec = machine_spec_from(_spec(spec_file), where)
    if not spec.identity:
        raise UsageError(f"{where}: no attribute of the machine is known; a node type needs at least one")
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
    """Publish a new version of a pipeline, with the machine added to its node types.

    Returns the node types before the change, and the number of the machine's node type.
    """
    from kepler_core.json_files import indented_json
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
    files[NODE_TYPE_INDEX] = indented_json(node_type_index(types))
    store.publish(pipeline, files, version=version)
    return before, number


def _members_text(members: tuple[str, ...]) -> str:
    return ", ".join(members[:_SHOWN_MEMBERS]) + (" …" if len(members) > _SHOWN_MEMBERS else "")


def _likeness_text(attributes: Mapping[str, float | None], name: str) -> str:
    if name not in attributes:
        return "-"
    likeness = attributes[name]
    return "?" if likeness is None else f"{likeness:.3f}"


def _spec(path: str | None) -> dict[str, Any]:
    """Return the description of the machine in a file, or of this machine if `path` is None."""
    if path is not None:
        from kepler_core.machine import read_machine_spec

        return read_machine_spec(path).as_dict()
    from kepler_profiler.machine import discover

    return discover().spec.as_dict()


def _read(store: str | None, pipeline: str | None, index: str | None) -> dict[str, dict[int, NodeType]]:
    """Return the node types of each pipeline of a store, or of an index file. The inner keys are their numbers."""
    if (store is None) == (index is None):
        raise UsageError("which node types: give --store DIR (and --pipeline), or --index FILE")
    if index is not None:
        from kepler_profiler.node_types import read_index

        if pipeline is not None:
            raise UsageError("--pipeline can only be used together with --store")
        return {index: read_index(index)}
    from kepler_core.store import open_store
    from kepler_core.store.models import read_node_types

    assert store is not None
    opened = open_store(store)
    names = opened.pipelines() if pipeline is None else [pipeline]
    if not names:
        raise StoreError(f"{shown_location(store)}: the store has no pipelines")
    return {name: read_node_types(opened.snapshot(name)) for name in names}
