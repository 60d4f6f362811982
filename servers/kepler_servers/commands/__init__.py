"""The commands that this package adds to `kepler-model`, with the hook that plugins also use to add commands."""

from __future__ import annotations

import click

from kepler_core.cli.lazy import LazyCommand, LazyGroup
from kepler_core.plugins.hooks import hookimpl

SERVERS = {
    "model-server": LazyCommand(
        "kepler_servers.commands.model_server:model_server",
        "Send each Kepler node the power model that fits its machine (POST /model).",
    ),
    "online-trainer": LazyCommand(
        "kepler_servers.commands.online_trainer:online_trainer",
        "Keep the models of a pipeline up to date with the nodes that a Prometheus server scrapes.",
    ),
    "estimator": LazyCommand(
        "kepler_servers.commands.estimator:estimator",
        "Answer Kepler's requests for watts over a unix socket.",
    ),
    "offline-trainer": LazyCommand(
        "kepler_servers.commands.offline_trainer:offline_trainer",
        "Train pipelines from recordings that clients send (POST /train), and publish them.",
    ),
    "meter": LazyCommand(
        "kepler_servers.commands.meter:meter",
        "Publish the watts of this machine for Kepler, Prometheus and other programs.",
    ),
}
"""The commands of `kepler-model serve`, by name. The module `commands.programs` has separate programs for four of
them."""

_COMMANDS = {
    "watts": LazyCommand(
        "kepler_servers.commands.watts:watts",
        "Show how many watts this machine draws now, with a 90 % interval.",
    ),
    "select": LazyCommand(
        "kepler_servers.commands.select:select",
        "Show which model of a store fits a machine best, and why.",
    ),
    "submit": LazyCommand(
        "kepler_servers.commands.submit:submit",
        "Have an offline trainer train a PIPELINE (the name of a shipped pipeline, or a YAML file).",
    ),
    "pair": LazyCommand(
        "kepler_servers.commands.pair:pair",
        "Record a host and a virtual machine on it, so that `train --host --guest` makes models of the virtual "
        "machine.",
    ),
    "estimator": LazyCommand(
        "kepler_servers.commands.estimator:estimator_commands",
        "Show the state of a running estimator.",
    ),
    "meter": LazyCommand(
        "kepler_servers.commands.meter:meter_commands",
        "Show what a running meter publishes.",
    ),
    "health": LazyCommand(
        "kepler_servers.commands.health:health",
        "Check whether servers are healthy.",
    ),
    "replay": LazyCommand(
        "kepler_servers.commands.replay:replay",
        "Serve the metrics of a RECORDING as its exporter did, so that Prometheus can scrape them.",
    ),
    "samples": LazyCommand(
        "kepler_servers.commands.samples:samples",
        "Show or export the samples that an online trainer has stored.",
    ),
    "monitoring": LazyCommand(
        "kepler_servers.commands.monitoring:monitoring",
        "Write rules for Prometheus and dashboards for Grafana to FOLDER.",
    ),
}


@hookimpl
def kepler_register_commands(cli: click.Group) -> None:
    """Add the servers and the commands of this package to `kepler-model`."""
    cli.add_command(LazyGroup("serve", lazy=SERVERS, help="Run a server until it gets SIGTERM or SIGINT."))
    assert isinstance(cli, LazyGroup)
    cli.lazy.update(_COMMANDS)
