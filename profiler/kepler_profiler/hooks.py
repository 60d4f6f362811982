"""The profiler's listener, which adds the command `profile` and publishes a profile with every pipeline."""

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


@hookimpl
def kepler_register_commands(cli: click.Group) -> None:
    """Add the command group `profile` to the command line `kepler-model`."""
    about = "Describe a machine, find its node type, and measure its idle power."
    cli.add_command(LazyGroup("profile", lazy=_COMMANDS, help=about))


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
