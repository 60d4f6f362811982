"""Tests of the list of commands: it is complete, works in the base install, and does not import the commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from support.command import kepler

from kepler_core.cli.lazy import LazyGroup
from kepler_core.cli.main import cli

BASE_INSTALL = """
import sys
from kepler_core.errors import modules_of_extra
for extra in ("train", "prometheus", "online", "xgboost", "dask", "s3"):
    for module in modules_of_extra(extra):
        sys.modules[module] = None  # importing this module now fails, as if it were not installed
from kepler_core.cli.main import main
main()
"""


def base_install(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `kepler-model` in a process that cannot import the modules of kepler-core's extras."""
    return subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def lazy_groups(group: click.Group, path: str = "kepler-model") -> Iterator[tuple[str, LazyGroup]]:
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from lazy_groups(command, f"{path} {name}")
    if isinstance(group, LazyGroup):
        yield path, group


@pytest.mark.parametrize(("path", "group"), [pytest.param(path, group, id=path) for path, group in lazy_groups(cli)])
def test_the_listed_short_helps_are_those_of_the_commands(path: str, group: LazyGroup) -> None:
    ctx = click.Context(group)
    expected = {}
    for name in group.lazy:
        command = group.get_command(ctx, name)
        assert command is not None
        expected[name] = command.get_short_help_str(limit=500).removesuffix(".")
    assert {name: lazy.short_help.removesuffix(".") for name, lazy in group.lazy.items()} == expected


@pytest.mark.parametrize("arguments", [(), ("--help",), ("serve", "--help"), ("profile",), ("plugins", "--help")])
def test_the_base_install_lists_the_commands(arguments: tuple[str, ...]) -> None:
    done = base_install(*arguments)
    output = done.stdout + done.stderr  # click prints the help of a group without arguments to standard error
    assert "kepler-model: error:" not in output
    listing = output.partition("Commands:\n")[2]
    assert listing.count("\n") >= 2


def test_the_base_install_lists_every_command() -> None:
    listing = base_install("--help").stdout.partition("Commands:\n")[2]
    names = {line.split()[0] for line in listing.splitlines() if line.startswith("  ") and line[2] != " "}
    assert names == set(cli.list_commands(click.Context(cli)))
    assert {"train", "quickstart", "serve"} <= names


@pytest.mark.parametrize("command", ["train", "quickstart"])
def test_the_base_install_shows_the_help_of_training_commands(command: str) -> None:
    done = base_install(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_base_install_names_the_extra_that_training_needs() -> None:
    done = base_install("quickstart", "--store", "/nonexistent/store")
    assert done.returncode == 1
    assert "pip install 'kepler-core[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "word", "expected"), [("kepler-model tr", "1", "train"), ("kepler-model serve ", "2", "estimator")]
)
def test_shell_completion_works_in_the_base_install(line: str, word: str, expected: str) -> None:
    done = base_install(_KEPLER_MODEL_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=word)
    assert done.stderr == ""
    assert f"plain,{expected}" in done.stdout.splitlines()


def test_listing_imports_no_command() -> None:
    script = BASE_INSTALL.replace("main()\n", "try:\n    main()\nfinally:\n    print(*sorted(sys.modules))\n", 1)
    script = script.replace("import main\ntry", "import main\nsys.argv[1:] = ['--help']\ntry")
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    modules = done.stdout.splitlines()[-1].split()
    assert "kepler_core.cli.lazy" in modules
    assert not {"kepler_core.cli.train", "kepler_core.cli.store", "kepler_servers.commands.model_server"} & set(modules)


def test_an_unknown_command_has_close_matches() -> None:
    done = kepler("tarin")
    assert done.returncode == 2
    assert "did you mean train" in done.stderr


def test_quickstart_needs_a_fresh_store(tmp_path: Path) -> None:
    """`quickstart` rejects a store folder that is not empty. `tests/from_wheel.py` tests a successful `quickstart`."""
    (tmp_path / "q" / "quickstart").mkdir(parents=True)
    (tmp_path / "q" / "quickstart" / "metadata.json").write_text("{}")
    done = kepler("quickstart", "--store", tmp_path / "q")
    assert done.returncode == 1
    assert "already exists; quickstart needs a new or empty folder" in done.stderr
