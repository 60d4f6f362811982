"""Tests of the messages about commands and options of kepler-model-server 0.7, and of docs/old-commands.md."""

from __future__ import annotations

import re
import shlex

import click
import pytest
from support.command import kepler
from support.paths import ROOT

from kepler_core.cli.main import cli
from kepler_core.cli.old_command_table import COMMANDS, OPTIONS
from kepler_core.cli.old_commands import documented, new_form, replaced_options

PAGE = ROOT / "docs" / "old-commands.md"
OLD_NAMES = {option.name: option.names for option in OPTIONS}


def message(*arguments: str) -> str:
    """Run an old command and return its error message. Check that it is one line, and that the exit code is 2."""
    done = kepler(*arguments)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    return lines[0].removeprefix("kepler-model: error: ").removesuffix("; see docs/old-commands.md")


@pytest.fixture(autouse=True)
def _no_old_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATAPATH", raising=False)
    monkeypatch.delenv("PROM_SERVER", raising=False)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "train_from_data -i x -p mine -e acpi -fg BPFOnly -ot DynPower --trainers A,B",
            "train default --data /data/x.csv --name mine --set 'feature_groups=[BPFOnly]' --energy-source acpi "
            "--set 'abs_trainers=[]' --set 'dyn_trainers=[A,B]' --store /data",
        ),
        (
            "train_from_data --input=x.csv --data-path /here",
            "train default --data /here/x.csv --energy-source rapl-sysfs --set 'dyn_trainers=[]' "
            "--set 'abs_trainers=[XgboostFitTrainer]' --store /here",
        ),
        (
            "isolate_from_data -i x -o y --isolator min -e rapl-sysfs --profile idle",
            "isolate --input RECORDING --output /data/y.csv --energy-source rapl-sysfs --isolator min "
            "--idle /data/idle.json (--input: the recording itself, not the table that extract wrote; "
            "--output: without the prefix extracted_ or isolated_ of the old file name)",
        ),
        (
            "isolate_from_data --target-hints 'a b,*c' -tm m1 m2",
            "isolate --set 'third_party=[m1,m2]' "
            """--set 'isolator={name: trainer, args: {target_hints: ["a b","*c"]}}'""",
        ),
        ("plot_scenario -i a,b", "plot --kind usage --input /data/a.json --input /data/b.json"),
        (
            "export -p mine -o /db/models --publisher me --collect-date 2024-07-25",
            "store export mine --output /db/models/v0.7/mine --publisher me --collect-date 2024-07-25 --for model-db "
            "--max-error 'mae:10;mape:100' --max-error 'mape:20;mae:100' --store /data "
            "(--output: the folder of the pipeline itself)",
        ),
        ("export --pipeline-name", "store export VALUE --output FOLDER"),
    ],
)
def test_an_old_command_prints_its_new_form(old: str, new: str) -> None:
    command, *arguments = shlex.split(old)
    text = message(command, *arguments)
    assert text.startswith(f"{command} is now: kepler-model {new}")
    if "VALUE" not in new:
        assert text == f"{command} is now: kepler-model {new}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "train -i x -p mine --abs-trainers A,B --dyn-trainers default -e acpi --vm-train",
            "-p is now --name mine; --abs-trainers is now --set 'abs_trainers=[A,B]'; --dyn-trainers is not needed; "
            "-e is now --set 'energy_sources=[acpi]'; --vm-train is now --set use_vm_metrics=true",
        ),
        ("train default -i x -s m --abs-pipeline-name p", "--abs-pipeline-name is not needed: the isolator uses"),
        ("train default -i x -s m --bg-hints=x", "--bg-hints is now --set 'isolator={name: trainer, args: {back"),
        (
            "query -s http://h:9090 --interval 300 -o q",
            "-s is now --server http://h:9090; --interval is now --last 300s",
        ),
        (
            "query --server h --start-time a --end-time b -o q",
            "--start-time is now --start a; --end-time is now --end b",
        ),
        ("validate -i x --benchmark b", "-i is now /data/x.json; --benchmark is not needed: the new command"),
        ("estimate -i x -s m -ot AbsPower", "-ot is now --output-type AbsPower"),
        ("estimate -i x -s m --model-name SGDRegressorTrainer_0", "--model-name is now --trainer SGDRegressorTrainer"),
        ("plot -i x --target-data estimate -o y", "--target-data is now --kind scatter --kind time --kind curve"),
        ("plot -i x --target-data", "--target-data is now --kind KIND (KIND is usage for preprocess;"),
        ("estimate -i x -s m --scenario s", "--scenario is not needed"),
    ],
)
def test_an_old_option_says_what_replaces_it(old: str, new: str) -> None:
    command, *arguments = shlex.split(old)
    assert message(command, *arguments).startswith(f"{command}: {new}")


def test_other_errors_stay_as_they_are() -> None:
    for arguments, text in (
        (("train", "--bogus"), "No such option"),
        (("train", "-i", "x"), "Missing argument 'PIPELINE'"),
        (("estimate", "-i", "x", "-s", "m", "--trainer"), "--trainer"),
        (("plugins", "list", "--id", "x"), "No such option"),
        (("exprot",), "no command 'exprot'"),
    ):
        done = kepler(*arguments)
        assert done.returncode == 2
        assert text in done.stderr
        assert "old-commands" not in done.stderr


def test_secrets_and_control_characters_are_not_printed() -> None:
    text = message("query", "-s", "http://user:geheim@h:9090/?token=abcd", "-o", "q")
    assert "--server http://h:9090/" in text
    assert "geheim" not in text
    assert "abcd" not in text
    assert "\x1b" not in message("export", "-p", "a\x1b[31m\nb", "-o", "x")


def test_the_data_folder_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAPATH", "/elsewhere")
    assert "--input /elsewhere/x.json" in new_form("plot_scenario", ["-i", "x"])
    assert "--input /given/x.json" in new_form("plot_scenario", ["-i", "x", "--data-path", "/given"])


@pytest.mark.parametrize("command", COMMANDS)
def test_the_new_forms_have_only_options_of_our_commands(command: str) -> None:
    group: click.Command = cli
    old = COMMANDS[command]
    for word in old.new.split():
        if word.startswith("--") or word in ("default", "usage"):
            break
        assert isinstance(group, click.Group)
        found = group.get_command(click.Context(group), word)
        assert found is not None, word
        group = found
    known = {name for parameter in group.params for name in parameter.opts}
    used = f"{old.new} {old.last} " + " ".join(
        " ".join((replacement.new, *replacement.choices.values())) for replacement in old.options.values()
    )
    assert set(re.findall(r"(?<=\s)--[a-z-]+", f" {used}")) <= known
    assert old.options.keys() <= OLD_NAMES.keys()
    assert old.defaults.keys() <= old.options.keys()


@pytest.mark.parametrize("command", [name for name, old in COMMANDS.items() if name == old.new.split()[0]])
def test_options_that_stayed_are_no_old_options(command: str) -> None:
    assert replaced_options(command, ["-i", "x"], {"-i"}) is None
    assert replaced_options(command, ["--none-of-these"], set()) is None


def rows(command: str) -> list[str]:
    """Return the lines of a command's table in docs/old-commands.md."""
    lines = []
    for name, replacement in COMMANDS[command].options.items():
        spellings = ", ".join(f"`{spelling}`" for spelling in OLD_NAMES[name])
        new = f"`{documented(replacement)}`" if replacement.new else "–"
        lines.append(f"| {spellings} | {new} | {replacement.note} |".replace("node|container", "node\\|container"))
    return lines


def test_the_page_has_the_table() -> None:
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    by_name = {section.split("\n", 1)[0].strip(): section for section in sections}
    assert list(by_name) == [*COMMANDS, "Options that no command used"]
    for command, old in COMMANDS.items():
        last = f" … {old.last.format(data='DIR')}" if old.last else ""
        assert f"`kepler-model {old.new}{last}`" in by_name[command]
        table = [line for line in by_name[command].splitlines() if line.startswith("| `")]
        assert table == rows(command)
    unused = set(OLD_NAMES) - {name for old in COMMANDS.values() for name in old.options}
    assert set(re.findall(r"`(--[a-z-]+)`", by_name["Options that no command used"])) == unused
