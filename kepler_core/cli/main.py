"""`kepler-model`: the commands, and what becomes of errors."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import click

from kepler_core import __version__
from kepler_core.cli.lazy import LazyGroup
from kepler_core.errors import KeplerError, missing_extra

EXIT_INTERRUPTED = 130

_COMMANDS = {
    "quickstart": "kepler_core.cli.quickstart:quickstart",
    "query": "kepler_core.cli.query:query",
    "validate": "kepler_core.cli.recordings:validate",
    "train": "kepler_core.cli.train:train",
    "estimate": "kepler_core.cli.estimate:estimate",
    "ask": "kepler_core.cli.ask:ask",
    "store": "kepler_core.cli.store:store",
    "pipelines": "kepler_core.cli.pipelines:pipelines",
    "plugins": "kepler_core.cli.plugins:plugins",
    "simulate": "kepler_core.cli.recordings:simulate",
}


class Commands(LazyGroup):
    """Our commands, and those that hooks add."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(lazy=_COMMANDS, **arguments)
        self._asked_hooks = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._ask_hooks()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            self._ask_hooks()
        return super().get_command(ctx, cmd_name)

    def _ask_hooks(self) -> None:
        if not self._asked_hooks:
            self._asked_hooks = True
            from kepler_core.plugins.hooks import hooks

            hooks().call("kepler_register_commands", cli=self)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kepler-model")
@click.option("-v", "--verbose", is_flag=True, help="Log what is done, and show tracebacks of errors.")
def cli(verbose: bool) -> None:
    """Train, check and apply power models for machines whose power cannot be measured.

    \b
    First steps:
      kepler-model quickstart                   the whole way on a bundled sample
      kepler-model validate recording.json      what can be trained from your data
      kepler-model train default --input recording.json --store models

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 trained, but some models failed.
    """
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )


def main() -> None:
    """Run the command line; the process ends with its exit code."""
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
        # whoever read our output has gone, as `head` does; nothing is left to say
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
    """Say what is wrong on one line, and end."""
    click.echo(f"kepler-model: error: {message}", err=True)
    sys.exit(code)
