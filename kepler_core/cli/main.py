"""The program `kepler-model`: its commands, and its messages and exit codes after errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click
import msgspec

from kepler_core import __version__
from kepler_core.cli.lazy import LazyCommand, LazyGroup
from kepler_core.cli.old_command_table import COMMANDS as OLD_COMMANDS
from kepler_core.errors import KeplerError, UsageError, missing_extra
from kepler_core.logs import COMMAND_FORMAT, configure_logging

EXIT_INTERRUPTED = 130
CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

_COMMANDS = {
    "quickstart": LazyCommand(
        "kepler_core.cli.quickstart:quickstart",
        "Train and apply models on a bundled sample recording, as a first look at Kepler Core.",
    ),
    "query": LazyCommand(
        "kepler_core.cli.query:query",
        "Write a recording from a Prometheus server, for `validate`, `train` and `estimate`.",
    ),
    "convert": LazyCommand(
        "kepler_core.cli.convert:convert",
        "Convert a recording from JSON to Parquet, or from Parquet to JSON.",
    ),
    "validate": LazyCommand(
        "kepler_core.cli.recordings:validate",
        "Report which models can be trained from a recording, and why other models cannot.",
    ),
    "doctor": LazyCommand(
        "kepler_core.cli.doctor:doctor",
        "Find out what is wrong with an installation of Kepler 0.10 or later, and say what to do.",
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
    "nodes": LazyCommand(
        "kepler_core.cli.nodes:nodes",
        "Show which nodes draw more or less power than other nodes of their type at the same work.",
    ),
    "recalibrate": LazyCommand(
        "kepler_core.cli.recalibrate:recalibrate",
        "Fit the AbsPower models of a pipeline to a short metered recording, and publish them as a new version.",
    ),
    "plot": LazyCommand(
        "kepler_core.cli.plot:plot",
        "Draw the models of a store and the power in a recording, as a PNG or SVG file.",
    ),
    "ask": LazyCommand(
        "kepler_core.cli.ask:ask",
        "Send a request for watts to a running estimator over its unix socket, as Kepler does.",
    ),
    "store": LazyCommand(
        "kepler_core.cli.store:store",
        "List, show, compare, check, import, export, prune and roll back the pipelines of a model store.",
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if name in OLD_COMMANDS and self.get_command(ctx, name) is None:
            from kepler_core.cli.old_commands import new_form

            raise UsageError(new_form(name, args[1:]))
        return super().resolve_command(ctx, args)

    def _call_hooks(self) -> None:
        if not self._hooks_called:
            self._hooks_called = True
            from kepler_core.plugins.hooks import hooks

            hooks().call("kepler_register_commands", cli=self)


@click.group(cls=Commands, context_settings=CONTEXT_SETTINGS)
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
    """Run the command line `kepler-model` and end the process with its exit code."""
    run(cli, "kepler-model", verbose=any(argument in ("-v", "--verbose") for argument in sys.argv[1:]))


def run(command: click.Command, program: str, *, verbose: bool = False, **settings: Any) -> None:
    """Run a command with the arguments of this process, and end the process with the command's exit code.

    `program` is the name of the program in messages. `settings` are settings of the command's `click.Context`.
    With `verbose`, errors are raised, so that Python prints a traceback.
    """
    try:
        code = command.main(prog_name=program, standalone_mode=False, **settings)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and (message := _changed_form(command)) is not None:
            fail(message, error.exit_code)
        if _wants_json():
            fail(error.format_message(), error.exit_code, program, kind="UsageError")
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        fail("interrupted; a store that was being written is unchanged", EXIT_INTERRUPTED, program)
    except BrokenPipeError:
        # the program that reads standard output, e.g. `head`, has closed the pipe; end without an error message
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if verbose:
            raise
        if _is_old_file(error) and (message := _changed_form(command)) is not None:
            fail(message, UsageError.exit_code, program)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        fail(f"{error.filename or 'standard output'}: {error.strerror or error}", 1, program)
    except KeplerError as error:
        if verbose:
            raise
        is_usage = isinstance(error, UsageError) or _is_old_file(error.__cause__)
        if is_usage and (message := _changed_form(command)) is not None:
            fail(message, UsageError.exit_code, program)
        place = {"document": error.document, "path": list(error.path)}
        fail(str(error), error.exit_code, program, kind=type(error).__name__, place=place)
    except ModuleNotFoundError as error:
        extra = missing_extra(error, "this command")
        if extra is None or verbose:
            raise
        fail(str(extra), extra.exit_code, program)


def _changed_form(command: click.Command) -> str | None:
    """Return an error message that shows the new form of this process's command line.

    Return None if `command` is not the program `kepler-model`, or if the command line is not one of kepler-model-server
    0.7.
    """
    words = sys.argv[1:]
    while words and words[0].startswith("-"):
        del words[0]
    if command is not cli or not words or words[0] not in OLD_COMMANDS or words[0] not in _COMMANDS:
        return None
    from kepler_core.cli.old_commands import changed_form

    return changed_form(words[0], words[1:], _COMMANDS[words[0]].load())


def _is_old_file(error: BaseException | None) -> bool:
    """Return whether an error is about a missing file whose name only an old command line can contain.

    The command lines of kepler-model-server 0.7 contain file names without suffix, and lists of names with commas.
    """
    from kepler_core.cli.old_commands import is_old_file_name

    if not isinstance(error, FileNotFoundError):
        return False
    return error.filename in sys.argv[2:] and is_old_file_name(str(error.filename))


def _wants_json() -> bool:
    """Return whether the command line of this process has the option --json."""
    return "--json" in sys.argv[1:]


def fail(
    message: str,
    code: int,
    program: str = "kepler-model",
    *,
    kind: str = "KeplerError",
    place: Mapping[str, Any] | None = None,
) -> NoReturn:
    """Print an error message on one line of standard error and end the process with an exit code.

    With the option --json, the line is a JSON object: `error` (the message), `kind` (the class of the error),
    `exit_code`, and for a wrong document its name (`document`) and the keys that lead to the wrong value (`path`).
    """
    if _wants_json():
        content = {"error": message, "kind": kind, "exit_code": code, **(place or {})}
        click.echo(msgspec.json.encode(content).decode(), err=True)
    else:
        click.echo(f"{program}: error: {message}", err=True)
    sys.exit(code)
