"""Tests of the help texts: each command has examples that it accepts, and reports its errors as JSON with --json."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from support.command import kepler

from kepler_core.cli.examples import PROGRAM, TITLE, examples
from kepler_core.cli.main import cli

WIDEST_EXAMPLE = 78
"""Maximum length of a line of an example, in characters. A terminal has at least 80 columns."""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif not command.hidden:
            yield (*path, name), command


ALL = [pytest.param(path, command, id=" ".join(path)) for path, command in commands(cli)]


def example_lines(command: click.Command) -> list[str]:
    """Return the examples of a command, each as one line."""
    _, _, text = (command.epilog or "").partition(TITLE)
    return [line.strip() for line in text.partition("\n\n")[0].replace("\\\n", " ").splitlines() if line.strip()]


def parse(words: list[str]) -> None:
    """Parse a command line without running it. Raises `click.UsageError` if the command does not accept the line."""
    ctx = cli.make_context(PROGRAM, list(words), resilient_parsing=False)
    command: click.Command = cli
    while isinstance(command, click.Group):
        rest = [*ctx._protected_args, *ctx.args]
        name, found, rest = command.resolve_command(ctx, rest)
        assert found is not None
        command = found
        ctx = command.make_context(name, rest, parent=ctx)


@pytest.mark.parametrize(("path", "command"), ALL)
def test_every_command_has_examples_that_it_accepts(path: tuple[str, ...], command: click.Command) -> None:
    lines = example_lines(command)
    assert lines
    for line in lines:
        words = shlex.split(line.partition(" > ")[0])
        assert words[: len(path) + 1] == [PROGRAM, *path]
        parse(words[1:])
    assert max(map(len, (command.epilog or "").partition("\n\n")[0].splitlines())) <= WIDEST_EXAMPLE


@pytest.mark.parametrize(("path", "command"), ALL)
def test_the_help_shows_the_examples_line_by_line(path: tuple[str, ...], command: click.Command) -> None:
    shown = CliRunner().invoke(cli, [*path, "--help"], prog_name=PROGRAM, terminal_width=80).output
    for line in (command.epilog or "").partition("\n\n")[0].splitlines()[1:]:
        assert line.rstrip() in shown


def test_an_example_that_a_command_does_not_accept_is_found() -> None:
    with pytest.raises(click.UsageError):
        parse(["train", "--no-such-option"])


def test_long_examples_continue_in_the_next_line() -> None:
    assert examples("train a -s models", f"train {'a' * 50} -s models --json").splitlines() == [
        "\b",
        "Examples:",
        "  kepler-model train a -s models",
        f"  kepler-model train {'a' * 50} \\",
        "    -s models --json",
    ]


@pytest.mark.parametrize(("path", "command"), ALL)
def test_every_command_reports_an_error_as_json(path: tuple[str, ...], command: click.Command, tmp_path: Path) -> None:
    assert any("--json" in parameter.opts for parameter in command.params)
    done = kepler(*path, "--no-such-option", "--json", cwd=tmp_path)
    (line,) = done.stderr.splitlines()
    error = json.loads(line)
    assert (done.returncode, done.stdout) == (2, "")
    assert (error["kind"], error["exit_code"]) == ("UsageError", 2)
    assert "--no-such-option" in error["error"]
