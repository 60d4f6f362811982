"""Commands of the servers, added to `kepler-model` in the way that any plugin adds commands."""

from __future__ import annotations

import click

from kepler_core.cli.lazy import LazyGroup
from kepler_core.plugins.hooks import hookimpl

_SERVERS = {
    "model-server": "kepler_servers.commands.model_server:model_server",
    "online-trainer": "kepler_servers.commands.online_trainer:online_trainer",
    "estimator": "kepler_servers.commands.estimator:estimator",
    "offline-trainer": "kepler_servers.commands.offline_trainer:offline_trainer",
}
_COMMANDS = {
    "select": "kepler_servers.commands.select:select",
    "submit": "kepler_servers.commands.submit:submit",
    "estimator": "kepler_servers.commands.estimator:estimator_commands",
    "samples": "kepler_servers.commands.samples:samples",
}


@hookimpl
def kepler_register_commands(cli: click.Group) -> None:
    """Add `serve`, `select`, `submit`, `estimator` and `samples`."""
    cli.add_command(LazyGroup("serve", lazy=_SERVERS, help="Run a server until it gets SIGTERM or SIGINT."))
    assert isinstance(cli, LazyGroup)
    cli.lazy.update(_COMMANDS)
