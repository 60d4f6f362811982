"""Tests of the servers' options and configuration keys, and of the programs that are named after the servers."""

from __future__ import annotations

import datetime
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import click
import pytest
from support.command import kepler
from support.model_server import kepler_process
from support.paths import ROOT

from kepler_core.cli.configured_option import ConfiguredOption, config_dir_option, configured_option
from kepler_core.errors import UsageError
from kepler_servers.commands import SERVERS

NAMES = tuple(SERVERS)
PROGRAMS = tuple(name for name in NAMES if name != "meter")
"""Servers that are also installed as programs. Containers of kepler-model-server start programs of these names."""
KEYS_OUTSIDE_OF_THE_OPTION_CLASS = re.compile(r"\[configuration key: ([A-Z_]+)")
WITHOUT_KEY = {"config_dir", "json", "settings", "help"}


def program(name: str) -> Path:
    """Return the path of a server's program. Skip the test if the program is not installed."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        pytest.skip(f"{path} is missing: install the package again")
    return path


def options(name: str) -> Iterator[click.Option]:
    """Yield the options of a server."""
    for parameter in SERVERS[name].load().params:
        if isinstance(parameter, click.Option):
            yield parameter


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_has_the_options_of_the_command(name: str) -> None:
    done = subprocess.run([program(name), "-h"], check=True, capture_output=True, text=True)
    command = kepler("serve", name, "-h")
    assert done.stdout.splitlines()[0] == f"Usage: {name} [OPTIONS]"
    # The first line may differ, because it has the name of the program or command. All other lines must be equal.
    assert done.stdout.splitlines()[1:] == command.stdout.splitlines()[1:]
    assert "-l, --log-level LEVEL" in done.stdout
    assert "-c, --config-dir DIR" in done.stdout


def test_the_servers_of_old_containers_are_programs() -> None:
    scripts = entry_points(group="console_scripts").select(module="kepler_servers.commands.programs")
    assert {script.name for script in scripts} == set(PROGRAMS)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_documented_key(name: str) -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    for option in options(name):
        if option.name in WITHOUT_KEY:
            continue
        key = KEYS_OUTSIDE_OF_THE_OPTION_CLASS.search(option.help or "")
        assert key is not None, option.name
        assert f"`{key[1]}`" in text, key[1]
        assert isinstance(option, ConfiguredOption) is hasattr(option, "key")


def test_no_two_options_have_the_same_key() -> None:
    keys = [option.key for name in NAMES for option in options(name) if isinstance(option, ConfiguredOption)]
    shared = {key for key in keys if keys.count(key) > 1}
    assert shared == {"SERVER_LOG_LEVEL", "SERVER_LOG_FORMAT"}


@click.command()
@configured_option("--size", key="TEST_SIZE", type=click.IntRange(1, 9), default=3)
@configured_option("--fast", key="TEST_FAST", is_flag=True)
@configured_option("--name", "names", key="TEST_NAMES", multiple=True)
@config_dir_option
def show(size: int, fast: bool, names: tuple[str, ...], config_dir: str | None) -> None:
    click.echo(f"{size} {fast} {names}")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    show.main(list(arguments), standalone_mode=False)
    return capsys.readouterr().out.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CONFIG_PATH", "/no-such-folder")
    return tmp_path


def test_the_order_option_environment_file_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ("-c", str(folder))
    assert shown(capsys, *config) == "3 False ()"
    (folder / "TEST_SIZE").write_text("4\n")
    (folder / "MODEL_CONFIG").write_text('TEST_FAST = "true"\nTEST_SIZE = 9\n')
    assert shown(capsys) == "3 False ()"
    assert shown(capsys, *config) == "4 True ()"
    monkeypatch.setenv("TEST_SIZE", "5")
    monkeypatch.setenv("TEST_NAMES", "a, b")
    monkeypatch.setenv("TEST_FAST", "false")
    assert shown(capsys, *config) == "5 False ('a', 'b')"
    assert shown(capsys, "--size", "6", "--name", "c", "--fast", *config) == "6 True ('c',)"


def test_a_wrong_value_is_reported_with_its_key(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("TEST_SIZE", "10")
    with pytest.raises(UsageError, match="TEST_SIZE: 10 is not in the range 1<=x<=9"):
        show.main([], standalone_mode=False)
    with pytest.raises(click.BadParameter, match="10 is not in the range"):
        show.main(["--size", "10"], standalone_mode=False)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_log_levels(name: str) -> None:
    done = subprocess.run([program(name), "-l", "loud"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "'loud' is not one of 'debug', 'info', 'warn', 'warning', 'error'" in done.stderr


def test_a_server_logs_lines_of_json(tmp_path: Path) -> None:
    command = [program("estimator"), "--socket", tmp_path / "e.sock", "--log-format", "json", "-s", tmp_path]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        first = json.loads(running.stderr.readline())
        running.terminate()
        others = [json.loads(line) for line in running.stderr]
    for line in (first, *others):
        assert {"time", "level", "logger", "message"} <= line.keys()
        assert datetime.datetime.fromisoformat(line["time"]).tzinfo is not None
    assert running.returncode == 0


@pytest.mark.parametrize("name", ["model-server", "offline-trainer", "online-trainer"])
def test_without_a_volume_the_store_is_required(name: str, tmp_path: Path) -> None:
    environ = {
        "MNT_PATH": str(tmp_path / "none"),
        "CONFIG_PATH": "/no-such-folder",
        "PROM_SERVER": "http://127.0.0.1:1",
    }
    done = kepler_process("serve", name, environ=environ)
    assert done.returncode == 2
    assert done.stderr == (
        "kepler-model: error: no model store: give --store, or set MODEL_PATH "
        f"(the default {tmp_path}/none/models is not writable)\n"
    )
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("name", NAMES)
def test_every_server_has_the_options_of_logs(name: str) -> None:
    flags = {flag for option in options(name) for flag in option.opts}
    assert {"--log-level", "--log-format"} <= flags
