"""Tests of the messages about commands and options of kepler-model-server 0.7, and of docs/old-commands.md."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from support.command import kepler
from support.paths import ROOT

from kepler_core.cli.main import cli
from kepler_core.cli.old_command_table import COMMANDS, OPTIONS
from kepler_core.cli.old_commands import changed_form, documented, new_form

PAGE = ROOT / "docs" / "old-commands.md"
OLD_NAMES = {option.name: option.names for option in OPTIONS}


def message(*arguments: str | Path, cwd: Path | None = None) -> str:
    """Run an old command and return its error message. Check that it is one line, and that the exit code is 2."""
    done = kepler(*arguments, cwd=cwd)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    return lines[0].removeprefix("kepler-model: error: ")


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
            "--output: the new file name has no prefix extracted_ or isolated_)",
        ),
        (
            "isolate_from_data --target-hints 'a b,*c' -tm m1 m2",
            "isolate --set 'third_party=[m1,m2]' "
            """--set 'isolator={name: trainer, args: {target_hints: ["a b","*c"]}}' """
            "--input RECORDING --output FILE.csv",
        ),
        (
            "plot_scenario -i a,b",
            "plot --kind usage --input /data/a.json --input /data/b.json --output FILE.png",
        ),
        (
            "export -p mine --zip -o out",
            "store export mine --output out/v0.7/mine --for model-db --max-error 'mae:10;mape:100' "
            "--max-error 'mape:20;mae:100' --store /data (--output: the folder of the pipeline itself; "
            "--zip: kepler-model store export NAME -o FILE.zip writes a zip file)",
        ),
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


TABLE_NOTE = "--output: the new file name has no prefix extracted_ or isolated_"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "train -i x -p mine --abs-trainers A,B --dyn-trainers default -e acpi --vm-train",
            "train default --input /data/x.json --name mine --set 'abs_trainers=[A,B]' --set 'energy_sources=[acpi]' "
            "--set use_vm_metrics=true --store /data",
        ),
        (
            "train -i x -p mine --energy-source rapl-sysfs,acpi",
            "train default --input /data/x.json --name mine --set 'energy_sources=[rapl-sysfs,acpi]' --store /data",
        ),
        (
            "train -i x --isolator profile --profile idle",
            "train default --input /data/x.json --set isolator=profile --idle /data/idle.json "
            "--set 'energy_sources=[rapl-sysfs]' --store /data "
            "(--profile: the new option --profile has another meaning)",
        ),
        (
            "train my.yaml -i x.json -s m --machine-id h -e acpi --profile p.json --vm-train",
            "train my.yaml --input /data/x.json --set 'energy_sources=[acpi]' --set use_vm_metrics=true "
            "-s m --machine-id h --profile p.json",
        ),
        ("train -i x -e acpi", "train default --input /data/x.json --set 'energy_sources=[acpi]' --store /data"),
        (
            "train default -i a,b -e acpi -s m",
            "train default --input /data/a.json --input /data/b.json --set 'energy_sources=[acpi]' -s m",
        ),
        (
            "extract -i x -o y -fg CounterOnly -e rapl-sysfs -ot AbsPower",
            "extract --input /data/x.json --output /data/y.csv --feature-group CounterOnly "
            f"--energy-source rapl-sysfs --level node ({TABLE_NOTE})",
        ),
        ("extract -i x -o y", f"extract --input /data/x.json --output /data/y.csv ({TABLE_NOTE})"),
        ("extract -i x -o y.csv", f"extract --input /data/x.json --output /data/y.csv ({TABLE_NOTE})"),
        (
            "extract -i a,b -o y.csv -e r,s",
            "extract --input /data/a.json --input /data/b.json --output /data/y.csv --energy-source r "
            f"({TABLE_NOTE}; --energy-source: repeat the command for each value of r,s)",
        ),
        ("estimate -i x -p mine", "estimate --input /data/x.json --pipeline mine --store /data"),
        ("estimate -i x.json", "estimate --input /data/x.json --store /data"),
        (
            "estimate -i x.json -s m --model-name SGDRegressorTrainer_0 --scenario s",
            "estimate --input /data/x.json --trainer SGDRegressorTrainer -s m (--scenario: not needed)",
        ),
        (
            "query -o idle --interval 1000",
            "query --output /data/idle.json --last 1000s --server http://localhost:9090 "
            "(--interval: the letter s means seconds)",
        ),
        (
            "query -s http://h:9090 --start-time a --end-time b --to-csv",
            "query --server http://h:9090 --start a --end b --to-csv --output FILE.json",
        ),
        (
            "query --server http://h:9090 -o idle",
            "query --output /data/idle.json --server http://h:9090 --last DURATION",
        ),
        (
            "plot -i x -o y",
            "plot --input /data/x.json --output /data/y.png --store /data "
            "(--output: the new command writes one file, not a folder)",
        ),
        ("plot -i x --target-data estimate", "plot --input /data/x.json --kind scatter --kind time --kind curve …"),
        (
            "plot -i x --target-data",
            "plot --input /data/x.json --kind KIND --output FILE.png --store /data (--target-data: use …",
        ),
        ("validate r.json --benchmark b", "validate r.json (--benchmark: not needed: the new command …"),
        ("validate --benchmark b", "validate FILE.json (--benchmark: not needed: the new command …"),
    ],
)
def test_an_old_line_of_a_command_prints_its_new_form(old: str, new: str, tmp_path: Path) -> None:
    command, *arguments = shlex.split(old)
    text = message(command, *arguments, cwd=tmp_path)
    expected = f"{command} is now: kepler-model {new}"
    assert text == expected or (new.endswith("…") and text.startswith(expected.removesuffix("…")))


def test_lines_for_the_new_program_are_not_refused(tmp_path: Path) -> None:
    """The name of a recording needs no suffix. Such names must not be confused with arguments of old commands."""
    rec, table = tmp_path / "rec", tmp_path / "table.csv"
    assert kepler("simulate", "--output", f"{rec}.json", "--minutes", "2").returncode == 0
    (tmp_path / "rec.json").rename(rec)
    done = kepler("extract", "-i", rec, "-o", table, "--energy-source", "rapl-sysfs", "--feature-group", "BPFOnly")
    assert (done.returncode, table.is_file()) == (0, True), done.stderr
    # Only the name of the table is wrong. The suggested command keeps the name of the recording, which exists.
    assert f"--input {rec}" in message("extract", "-i", rec, "-o", tmp_path / "table", cwd=tmp_path)


def test_other_errors_stay_as_they_are() -> None:
    for arguments, text in (
        (("train", "--bogus"), "No such option"),
        (("train", "-i", "x.json", "--store", "m"), "Missing argument 'PIPELINE'"),
        (("query", "-o", "x.json", "--last", "1h"), "Missing option '--server'"),
        (("estimate", "-i", "x.json", "-s", "m", "--trainer"), "--trainer"),
        (("plugins", "list", "--id", "x"), "No such option"),
        (("exprot",), "no command 'exprot'"),
    ):
        done = kepler(*arguments)
        assert done.returncode == 2
        assert text in done.stderr
        assert "is now" not in done.stderr


def test_secrets_and_control_characters_are_not_printed() -> None:
    text = message("query", "-s", "http://user:geheim@h:9090/?token=abcd", "-o", "q")
    assert "--server http://h:9090/" in text
    assert "geheim" not in text
    text = message("query", "-s", "http://h:9090", "--header", "X: geheim", "--start-time", "a", "-o", "q")
    assert "--header 'NAME: VALUE'" in text
    assert "geheim" not in message("train", "-p", "a", "-s", "http://user:geheim@h/")
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
    used = f"{old.new} {old.last} {' '.join(old.needed.values())} " + " ".join(
        " ".join((replacement.new, *replacement.choices.values())) for replacement in old.options.values()
    )
    assert set(re.findall(r"(?<=\s)--[a-z-]+", f" {used}")) <= known
    assert old.options.keys() <= OLD_NAMES.keys()
    assert old.defaults.keys() <= old.options.keys()


@pytest.mark.parametrize("name", [name for name, old in COMMANDS.items() if name == old.new.split()[0]])
def test_options_that_stayed_are_no_old_options(name: str) -> None:
    assert isinstance(cli, click.Group)
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    files = ["x.json"] if name == "validate" else ["-i", "x.json"] if name != "query" else ["-o", "x.json"]
    assert changed_form(name, [*files, "--none-of-these"], command) is None


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
