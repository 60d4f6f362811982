"""The program `kepler-model`: its commands, and its messages and exit codes after errors."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from kepler_core import __version__
from kepler_core.cli.lazy import LazyCommand, LazyGroup
from kepler_core.errors import KeplerError, missing_extra
from kepler_core.logs import COMMAND_FORMAT, configure_logging

EXIT_INTERRUPTED = 130

_COMMANDS = {
    "quickstart": LazyCommand(
        "kepler_core.cli.quickstart:quickstart",
        "Train and apply models on a bundled sample recording, as a first look at Kepler Core.",
    ),
    "query": LazyCommand(
        "kepler_core.cli.query:query",
        "Write a recording from a Prometheus server, for `validate`, `train` and `estimate`.",
    ),
    "validate": LazyCommand(
        "kepler_core.cli.recordings:validate",
        "Report which models can be trained from a recording, and why other models cannot.",
    ),
    "train": LazyCommand("kepler_core.cli.train:train", "Train, validate and publish the models of a pipeline."),
    "extract": LazyCommand(
        "kepler_core.cli.extract:extract",
        "Write the features and the power of recordings as a table (CSV or Parquet).",
    ),
    "isolate": LazyCommand(
        "kepler_core.cli.extract:isolate",
        "Write the features and the dynamic power of containers as a table (CSV or Parquet).",
    ),
    "estimate": LazyCommand(
        "kepler_core.cli.estimate:estimate",
        "Apply the best matching model of a store to a recording, and compare the estimates with the measured power.",
    ),
    "ask": LazyCommand(
        "kepler_core.cli.ask:ask",
        "Send a request for watts to a running estimator over its unix socket, as Kepler does.",
    ),
    "store": LazyCommand(
        "kepler_core.cli.store:store",
        "List, check, import, export, prune and roll back the pipelines of a model store.",
    ),
    "pipelines": LazyCommand(
        "kepler_core.cli.pipelines:pipelines",
        "List, check and show pipelines, the YAML files that describe a training.",
    ),
    "plugins": LazyCommand(
        "kepler_core.cli.plugins:plugins",
        "List, describe, check and create plugins, such as trainers, isolators and metric schemas.",
    ),
    "simulate": LazyCommand(
        "kepler_core.cli.recordings:simulate",
        "Write a simulated recording of nodes whose power follows a known formula.",
    ),
}


class Commands(LazyGroup):
    """The commands of this package, and the commands that listeners of the hook `kepler_register_commands` add."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(lazy=_COMMANDS, **arguments)
        self._hooks_called = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._call_hooks()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            self._call_hooks()
        return super().get_command(ctx, cmd_name)

    def _call_hooks(self) -> None:
        if not self._hooks_called:
            self._hooks_called = True
            from kepler_core.plugins.hooks import hooks

            hooks().call("kepler_register_commands", cli=self)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kepler-model")
@click.option("-v", "--verbose", is_flag=True, help="Log each step, and show the tracebacks of errors.")
def cli(verbose: bool) -> None:
    """Train, check and apply power models for machines whose power cannot be measured.

    \b
    First steps:
      kepler-model quickstart                   train and apply models on a bundled sample recording
      kepler-model validate recording.json      show what can be trained from your data
      kepler-model train default --input recording.json --store models

    Exit codes: 0 success, 1 failure, 2 wrong usage, 3 partial failure (some models failed to train, or
    `plugins doctor` found a problem), 130 interrupted.
    """
    configure_logging(logging.DEBUG if verbose else logging.WARNING, format=COMMAND_FORMAT)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    verbose = any(argument in ("-v", "--verbose") for argument in sys.argv[1:])
    try:
        code = cli.main(prog_name="kepler-model", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted; a store that was being written is as it was", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # the program that reads standard output, e.g. `head`, has closed the pipe; end without an error message
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if verbose:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1)
    except KeplerError as error:
        if verbose:
            raise
        fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        extra = missing_extra(error, "this command")
        if extra is None or verbose:
            raise
        fail(str(extra), extra.exit_code)


def fail(message: str, code: int) -> None:
    """Print an error message on one line and end the process with an exit code."""
    click.echo(f"kepler-model: error: {message}", err=True)
    sys.exit(code)
