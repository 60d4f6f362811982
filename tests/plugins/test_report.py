"""Test the page report.html that a training adds to its pipeline."""

from __future__ import annotations

import gzip
import html
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.command import kepler
from support.html_page import check_self_contained

from kepler_core.plugins.hooks import hooks
from kepler_plugins.report.page import TABLE_COLUMNS
from kepler_plugins.report.templates import number

PIPELINE = {
    "name": "mine",
    "energy_sources": ["acpi"],
    "feature_groups": ["CounterOnly", "CPUTime"],
    "validation": {"folds": 2, "regimes": 3},
    "abs_trainers": ["LinearRegressionTrainer"],
    "dyn_trainers": ["LinearRegressionTrainer"],
    "isolator": "min",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, kepler_recording_file: Path) -> Path:
    """Train a small pipeline and return the folder of the published pipeline."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "mine.yaml").write_text(json.dumps(PIPELINE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEPLER_REPORT", "true")
        done = kepler("train", "mine.yaml", "-i", kepler_recording_file, "-s", "models", "-j", "1", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("Report with pictures: models/mine/report.html")
    return folder / "models" / "mine"


@pytest.fixture(scope="module")
def page(published: Path) -> str:
    return (published / "report.html").read_text()


def test_the_page_needs_no_other_file(page: str) -> None:
    check_self_contained(page)


def test_the_table_has_the_errors_of_every_model(published: Path, page: str) -> None:
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page[page.index('id="models"') : page.index('id="chosen"')], re.DOTALL)
    cells = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in rows[1:]]
    keys = [key for key, _ in TABLE_COLUMNS]
    shown = {tuple(row[:4]): dict(zip(keys, row, strict=True)) for row in cells}
    models = [json.loads(path.read_text()) for path in published.glob("acpi/*/*/*/metadata.json")]
    assert len(models) == len(shown) == 4
    for model in models:
        row = shown[model["source"], model["output_type"], model["feature_group"], model["trainer"]]
        assert row["mae"] == number(model["mae"])
        for split in ("regimes", "recordings", "nodes"):
            errors = model["honesty"]["splits"][split]
            assert row[split] == number(None if errors is None else errors["mae"])


def test_the_best_models_are_shown_on_held_out_times(published: Path, page: str) -> None:
    best: dict[str, Any] = {}
    for path in published.glob("acpi/*/*/*/metadata.json"):
        model = json.loads(path.read_text())
        honesty = model["honesty"]
        error = honesty["splits"][honesty["hardest"]]["worst"]
        best[model["output_type"]] = min(best.get(model["output_type"], (1e9, "")), (error, model["feature_group"]))
    sections = re.findall(r"<section>(.*?)</section>", page, re.DOTALL)
    assert len(sections) == 2
    for section, (output_type, (_, group)) in zip(sections, sorted(best.items()), strict=True):
        assert f"<h3>acpi {output_type}: LinearRegressionTrainer, {group}</h3>" in section
        svgs = re.findall(r"<svg.*?</svg>", section, re.DOTALL)
        texts = [{element.text for element in ElementTree.fromstring(svg).iter()} for svg in svgs]
        assert ["Power over time" in texts[0], "Errors against load" in texts[2]] == [True, True]
        assert ("90 % interval" in texts[0]) == (output_type == "AbsPower")
        assert "on blocks of time that were held out of the training" in texts[0]
        assert "never measured" in section


def test_the_errors_of_the_scatter_are_those_of_the_validation(published: Path, page: str) -> None:
    shown = [float(text) for text in re.findall(r"platform: MAE ([0-9.]+) W in this data", page)]
    blocks = [
        json.loads(path.read_text())["honesty"]["splits"]["blocks"]["components"]["platform"]["mae"]
        for path in published.glob("acpi/*/*/*/metadata.json")
    ]
    assert len(shown) == 2
    assert all(any(abs(error - mae) <= 0.005 * mae for mae in blocks) for error in shown)


def test_the_page_says_what_was_left_out_and_how_to_train_again(page: str, kepler_recording_file: Path) -> None:
    assert "One recording: the error on another day is unknown." in page
    assert f"kepler-model train pipeline.yaml -i {kepler_recording_file} -s STORE" in page
    assert "feature_groups:" in page
    assert page.index('<h2 id="left-out">') < page.index('<h2 id="again">')


def test_the_page_names_skipped_data_sets(
    tmp_path: Path, kepler_recording_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEPLER_REPORT", "true")
    recorded = json.loads(gzip.decompress(kepler_recording_file.read_bytes()))
    (tmp_path / "r.json").write_text(json.dumps({k: v for k, v in recorded.items() if "page_cache" not in k}))
    every = {key: value for key, value in PIPELINE.items() if key not in ("feature_groups", "dyn_trainers")}
    (tmp_path / "mine.yaml").write_text(json.dumps(every))
    done = kepler("train", "mine.yaml", "-i", "r.json", "-s", "models", "-j", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "models" / "mine" / "report.html").read_text()
    skipped = json.loads((tmp_path / "models" / "mine" / "metadata.json").read_text())["skipped"]
    assert skipped
    for entry in skipped:
        assert html.escape(f"{entry['feature_group']}: {entry['reason']}") in page


def test_names_are_escaped(tmp_path: Path, kepler_recording_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEPLER_REPORT", "true")
    recording = tmp_path / "a<b>&c.json"
    recording.write_bytes(kepler_recording_file.read_bytes())
    small = {**PIPELINE, "feature_groups": ["CounterOnly"], "dyn_trainers": []}
    (tmp_path / "mine.yaml").write_text(json.dumps(small))
    done = kepler("train", "mine.yaml", "-i", recording, "-s", "models", "-j", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "models" / "mine" / "report.html").read_text()
    assert "a&lt;b&gt;&amp;c.json" in page
    assert "a<b>" not in page


@pytest.mark.parametrize(("arguments", "setting"), [(("--report", "none"), "true"), ((), "false")])
def test_the_report_can_be_left_out(
    tmp_path: Path,
    kepler_recording_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    setting: str,
) -> None:
    monkeypatch.setenv("KEPLER_REPORT", setting)
    small = {**PIPELINE, "feature_groups": ["CounterOnly"], "dyn_trainers": []}
    (tmp_path / "mine.yaml").write_text(json.dumps(small))
    done = kepler(
        "train", "mine.yaml", "-i", kepler_recording_file, "-s", "models", "-j", "1", *arguments, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "Report with pictures" not in done.stdout
    assert not list(tmp_path.rglob("report.html"))


def test_a_listener_is_called_again_after_without() -> None:
    listeners = hooks()
    before = listeners.listeners()
    with listeners.without("kepler-core:report"):
        assert "kepler-core:report" not in listeners.listeners()
    assert listeners.listeners() == before
    assert listeners.hooks_of("kepler-core:report") == dict.fromkeys(
        ("kepler_pipelines_compared", "kepler_publishing", "kepler_retraining_decided"), False
    )
