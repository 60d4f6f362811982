"""Tests of the manual pages: each command has a page with all its options and examples, and without errors of roff."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import click
import pytest
from support.paths import ROOT

from kepler_core.cli.main import cli


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("man_pages", ROOT / "docs" / "site" / "man_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(writer: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {path.stem: path for path in writer.write(tmp_path_factory.mktemp("man"))}


def shown(page: Path) -> str:
    """Return a manual page as text."""
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed (apt-get install groff-base)")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", "-rLL=200n", str(page)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_every_command_has_a_page(pages: dict[str, Path]) -> None:
    names = {f"kepler-model-{name}" for name in cli.list_commands(click.Context(cli))}
    assert names <= set(pages)
    assert {"kepler-model", "kepler-model-profile-node-types-add", "kepler-model-serve-meter"} <= set(pages)


def test_no_page_has_an_error_of_roff(pages: dict[str, Path]) -> None:
    for page in pages.values():
        assert "NAME" in shown(page)


def test_a_page_has_the_options_and_examples_of_its_command(pages: dict[str, Path]) -> None:
    text = shown(pages["kepler-model-train"]).replace("\N{HYPHEN}", "-")
    for words in ("kepler-model-train - Train, validate", "--machine-spec", "EXAMPLES", "EXIT STATUS", "130"):
        assert words in text
    assert "  kepler-model train default -i recording.json.gz -s models\n" in text


def test_special_characters_stay_as_they_are(writer: ModuleType, tmp_path: Path) -> None:
    text = ".dot 'quote' back\\slash - ± `code` ~/file ^"
    (tmp_path / "a.1").write_text(f".TH A 1\n.SH NAME\n{writer.roff(text)}\n")
    assert text in shown(tmp_path / "a.1")
