"""The programs `model-server`, `estimator`, `offline-trainer` and `online-trainer`.

Each program runs the command of `kepler-model serve` with the same name. Existing deployments of kepler-model-server
start programs with these names in their containers.
"""

from __future__ import annotations

import click

from kepler_core.cli.main import CONTEXT_SETTINGS, run
from kepler_servers.commands import SERVERS


def model_server() -> None:
    """Run `kepler-model serve model-server`."""
    _run("model-server")


def estimator() -> None:
    """Run `kepler-model serve estimator`."""
    _run("estimator")


def offline_trainer() -> None:
    """Run `kepler-model serve offline-trainer`."""
    _run("offline-trainer")


def online_trainer() -> None:
    """Run `kepler-model serve online-trainer`."""
    _run("online-trainer")


def _run(name: str) -> None:
    command: click.Command = SERVERS[name].load()
    run(command, name, **CONTEXT_SETTINGS)
