"""Test that the reports of trainings name the data on which errors were measured."""

from __future__ import annotations

import html
import json
from pathlib import Path

import pytest
from support.command import kepler

SCHEMES = {
    "{scheme: blocks, folds: 3}": "blocks of time, held out in 3 folds",
    "{scheme: last, last_fraction: 0.25}": "the last 25 % of each node's time",
    "{scheme: recordings}": "whole nodes of recordings, held out one after the other",
}


@pytest.mark.parametrize(("validation", "words"), SCHEMES.items(), ids=["blocks", "last", "recordings"])
def test_reports_name_the_held_out_data(
    tmp_path: Path, simulated: Path, quick: Path, monkeypatch: pytest.MonkeyPatch, validation: str, words: str
) -> None:
    monkeypatch.setenv("KEPLER_REPORT", "true")
    arguments = ("train", quick, "-i", simulated, "-s", tmp_path, "-j", "1", "--set", f"validation={validation}")
    # one model, because the report has pictures of each model
    one = ("energy_sources=[acpi]", "feature_groups=[BPFOnly]", "abs_trainers=[LinearRegressionTrainer]")
    done = kepler(*arguments, *(word for key in (*one, "dyn_trainers=[]") for word in ("--set", key)))
    assert done.returncode == 0, done.stderr
    assert f"MAE W and MAPE % are measured on {words}." in done.stdout
    page = next(tmp_path.rglob("report.html")).read_text()
    assert words in html.unescape(page)
    for other in set(SCHEMES.values()) - {words}:
        assert other not in done.stdout
        assert other not in page


def test_the_json_report_names_the_held_out_data(tmp_path: Path, simulated: Path, quick: Path) -> None:
    arguments = ("train", quick, "-i", simulated, "-s", tmp_path, "-j", "1", "--json")
    done = kepler(*arguments, "--set", "feature_groups=[BPFOnly]", "--set", "validation.scheme=last")
    report = json.loads(done.stdout)
    assert {model["held_out"] for model in report["models"]} == {"the last 30 % of each node's time"}
