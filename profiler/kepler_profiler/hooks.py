"""The profiler's listener: it adds the commands `profile` and `machines`, and publishes a profile with a pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.lazy import LazyCommand, LazyGroup
from kepler_core.plugins.hooks import hookimpl

if TYPE_CHECKING:
    from kepler_core.recording.observations import Observations

_COMMANDS = {
    "machine": LazyCommand(
        "kepler_profiler.commands.machine:machine",
        "Describe this machine: processor, cores, chips, memory, frequency.",
    ),
    "build": LazyCommand(
        "kepler_profiler.commands.profiles:build",
        "Build the profile of a machine from its recordings.",
    ),
    "show": LazyCommand(
        "kepler_profiler.commands.profiles:show",
        "Show a profile in a file, in a folder written by `profile build`, or in a store: STORE/PIPELINE[#NODE_TYPE].",
    ),
    "compare": LazyCommand(
        "kepler_profiler.commands.profiles:compare",
        "Compare two profiles: idle and highest power, feature scales, machines.",
    ),
    "schema": LazyCommand("kepler_profiler.commands.profiles:schema", "Print the JSON Schema of a profile."),
    "node-types": LazyCommand(
        "kepler_profiler.commands.node_types:node_types",
        "List node types, match a machine with them, or add a machine to them.",
    ),
}

_MACHINES = {
    "estimate": LazyCommand(
        "kepler_profiler.commands.machines:estimate",
        "Estimate the power of a machine that was never measured.",
    ),
    "fit": LazyCommand(
        "kepler_profiler.commands.machine_fit:fit",
        "Train a model over machines of many kinds from a table of measured machines.",
    ),
    "list": LazyCommand(
        "kepler_profiler.commands.machine_tables:list_machines",
        "List the processors in the table, or the cloud instances.",
    ),
    "show": LazyCommand(
        "kepler_profiler.commands.machine_tables:show",
        "Show a processor or a cloud instance, with the source of the facts.",
    ),
}


@hookimpl
def kepler_register_commands(cli: click.Group) -> None:
    """Add the command groups `profile` and `machines` to the command line `kepler-model`."""
    about = "Describe a machine, find its node type, and measure its idle power."
    cli.add_command(LazyGroup("profile", lazy=_COMMANDS, help=about))
    about = "Estimate the power of machines and cloud instances that were never measured."
    cli.add_command(LazyGroup("machines", lazy=_MACHINES, help=about))


@hookimpl
def kepler_publishing(
    files: dict[str, bytes],
    observations: Observations,
    idle: Observations | None,
    node_type: int,
    machine_spec: Mapping[str, Any],
    profile: Mapping[str, Any] | None,
) -> None:
    """Add the profile of the node type to the pipeline's files, as `profiles/<node type>.json`."""
    from kepler_profiler.profile.choice import profile_files

    files.update(profile_files(observations, idle, node_type, machine_spec, profile))
