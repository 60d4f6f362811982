"""Test which models a retraining publishes, and which decisions the online trainer records."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.command import kepler
from support.online_trainer import (
    PIPELINE,
    SHIFT_SECONDS,
    STEP_SECONDS,
    TIMESTAMPS,
    Content,
    TrainerUnderTest,
    expected_samples,
)
from support.prometheus_process import PrometheusProcess

from kepler_core.simulate import START
from kepler_core.store import open_store
from kepler_servers.online_trainer.app import make_app
from kepler_servers.online_trainer.retraining.process import MODULE

GRADIENT_BOOSTING = PIPELINE.replace(
    "{name: PolynomialRegressionTrainer}", "{name: GradientBoostingRegressorTrainer, args: {n_estimators: 40}}"
)
CONSTANT = GRADIENT_BOOSTING.replace("n_estimators: 40", "n_estimators: 1")
"""The pipeline `GRADIENT_BOOSTING` with a single tree, so that its models predict nearly constant watts."""


@attrs.frozen
class Story:
    """An online trainer that has run rounds before and after a power shift of its machine."""

    trainer: TrainerUnderTest
    version_before_shift: int | None
    decisions_before_shift: list[dict[str, Any]]
    alarm_before_shift: bool
    health_before_shift: dict[str, Any]
    metrics_before_shift: str
    last_round: float
    """Time of the latest round, in seconds from the start of the recording."""

    @property
    def folder(self) -> Path:
        return self.trainer.folder

    @property
    def decisions(self) -> list[dict[str, Any]]:
        return self.trainer.store.decisions("test")

    def kept_aside(self) -> dict[str, Any]:
        """Return the first decision before the power shift that did not publish the challengers."""
        return next(decision for decision in self.decisions_before_shift if decision["decision"] == "kept aside")


@pytest.fixture(scope="module")
def story(server: PrometheusProcess, content: Content, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Run rounds until the error of the served model is at most 3 times the error before the power shift."""
    trainer = TrainerUnderTest(tmp_path_factory.mktemp("story"), server.url)
    trainer.run_rounds(range(120, SHIFT_SECONDS - 59, 60))
    version, alarm = trainer.rounds.drift.version, trainer.rounds.drift.alarm
    health, metrics = json.loads(get(trainer, "/healthz")), get(trainer, "/metrics")
    decisions = trainer.store.decisions("test")
    before = trainer.served_mae(content, SHIFT_SECONDS - 300, SHIFT_SECONDS)
    seconds = SHIFT_SECONDS
    while trainer.served_mae(content, SHIFT_SECONDS + 240, TIMESTAMPS * STEP_SECONDS) > 3 * before:
        seconds += 60
        trainer.run_rounds([seconds])
        assert seconds <= SHIFT_SECONDS + 14 * 60, [d["reason"] for d in trainer.store.decisions("test")]
    return Story(trainer, version, decisions, alarm, health, metrics, seconds)


def test_the_first_models_are_published(story: Story) -> None:
    assert story.version_before_shift is not None
    assert story.decisions_before_shift[0]["trigger"] == "first models"
    assert story.decisions_before_shift[0]["decision"] == "published"
    assert not story.alarm_before_shift


def test_challengers_without_a_significant_gain_are_kept_aside(story: Story) -> None:
    assert any(decision["decision"] == "kept aside" for decision in story.decisions_before_shift)
    reason = story.kept_aside()["reason"]
    assert "is needed" in reason or "worse" in reason


def test_models_follow_a_power_shift(story: Story) -> None:
    shifted = [decision for decision in story.decisions if decision["law_changes"]]
    assert len(shifted) == 1
    shift = shifted[0]["law_changes"][0]
    line = shift["lines"]["rapl-sysfs.package"]
    assert line["scale"] * 50 + line["offset"] == pytest.approx(1.15 * 50, rel=0.06)
    assert abs(shift["since"] - START - SHIFT_SECONDS) < 60
    assert story.trainer.rounds.status.power_shifts == 1


def test_each_sample_is_stored_once(story: Story, content: Content) -> None:
    assert sorted(story.trainer.stored_samples()) == expected_samples(content, story.last_round)


def test_store_history_shows_the_decisions(story: Story) -> None:
    done = kepler("store", "history", "test", "-s", story.folder / "store")
    assert done.returncode == 0
    assert "law change" in done.stdout
    assert story.kept_aside()["reason"] in done.stdout


def test_health_and_metrics_of_the_trainer(story: Story) -> None:
    page = get(story.trainer, "/metrics")
    assert 'kepler_online_trainer_decisions_total{decision="published"}' in page
    assert "kepler_online_trainer_law_changes_total 1.0" in page
    assert json.loads(get(story.trainer, "/healthz"))["served_version"] == story.trainer.store.current_version("test")
    assert json.loads(get(story.trainer, "/readyz"))["last_success"] is not None
    assert "there are /healthz and /readyz and /metrics" in json.loads(get(story.trainer, "/", "404 Not Found"))["msg"]


def test_the_coverage_of_the_served_intervals_is_measured(story: Story) -> None:
    (model,) = story.health_before_shift["models"]
    assert (model["source"], model["feature_group"], model["interval_level"]) == ("rapl-sysfs", "CounterOnly", 0.9)
    package = model["components"]["package"]
    assert 0 < package["running_error"] <= package["running_error_limit"]
    assert package["interval_coverage"] > 0.5
    assert package["interval_half_width"] > package["running_error"]
    samples = {
        (family.name, sample.labels.get("component")): sample.value
        for family in text_string_to_metric_families(story.metrics_before_shift)
        for sample in family.samples
    }
    prefix = "kepler_online_trainer"
    assert samples[f"{prefix}_interval_coverage_ratio", "package"] == package["interval_coverage"]
    assert samples[f"{prefix}_interval_half_width_watts", "package"] == package["interval_half_width"]
    assert samples[f"{prefix}_samples_outside_ratio", None] == model["samples_outside"]
    assert samples[f"{prefix}_disagreements_ratio", None] == model["disagreements"] == 0


def get(trainer: TrainerUnderTest, path: str, expected: str = "200 OK") -> str:
    """Request a path of the online trainer, check that the answer has the expected status, and return its body."""
    statuses: list[str] = []
    body = make_app(trainer.rounds).wsgi(
        {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": None},
        lambda status, headers, problem=None: statuses.append(status),
    )
    assert statuses == [expected]
    return b"".join(body).decode()


def test_samples_show(story: Story, content: Content) -> None:
    done = kepler("samples", "show", "--state", story.folder / "state", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["instants"] == len(expected_samples(content, story.last_round))
    assert len(summary["law_changes"]) == 1


def test_samples_show_as_text(story: Story, content: Content) -> None:
    done = kepler("samples", "show", "--state", story.folder / "state")
    assert done.stdout.startswith(f"{len(expected_samples(content, story.last_round))} samples in ")
    assert "the power of node-0 shifted at " in done.stdout


def test_samples_export(story: Story, content: Content, tmp_path: Path) -> None:
    for name in ("samples.parquet", "samples.csv"):
        done = kepler("samples", "export", "--state", story.folder / "state", "-o", tmp_path / name)
        assert done.returncode == 0, done.stderr
    rows = (tmp_path / "samples.csv").read_text().splitlines()
    assert len(rows) == len(expected_samples(content, story.last_round)) + 1
    assert "power.rapl-sysfs.package" in rows[0]


def test_samples_export_refuses_what_it_cannot_write(story: Story, tmp_path: Path) -> None:
    state = ("--state", story.folder / "state")
    existing = tmp_path / "samples.csv"
    existing.write_text("kept")
    for arguments, expected in (
        ((*state, "-o", existing), "exists already; --force replaces it"),
        ((*state, "-o", tmp_path / "samples.txt"), "the name must end in .parquet or .csv"),
        ((*state, "-o", tmp_path / "x.csv", "--node", "node-1"), "no samples of node 'node-1'; did you mean node-0?"),
        ((*state, "-o", tmp_path / "no folder" / "x.csv"), "cannot write"),
        (("--state", tmp_path, "-o", tmp_path / "x.csv"), "the folder has no sample store"),
    ):
        done = kepler("samples", "export", *arguments)
        assert done.returncode == 2
        assert expected in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["samples.csv"]
    assert existing.read_text() == "kept"


@attrs.frozen
class WorseStory:
    """Decisions of an online trainer that used a bad pipeline, then a good pipeline, then the bad pipeline again."""

    trainer: TrainerUnderTest
    first: dict[str, Any]
    better: dict[str, Any]
    trained_until_after_better: dict[str, float]
    files_after_better: Any
    version_after_better: int | None
    worse: dict[str, Any]


@pytest.fixture(scope="module")
def worse_story(server: PrometheusProcess, tmp_path_factory: pytest.TempPathFactory) -> WorseStory:
    """Run rounds with a bad pipeline, then with a good pipeline, then with the bad pipeline. Keep the decisions."""
    assert CONSTANT != GRADIENT_BOOSTING
    trainer = TrainerUnderTest(tmp_path_factory.mktemp("worse"), server.url, CONSTANT)
    trainer.run_rounds((120, 240, 360, 420))
    first = trainer.decision
    trainer.start(GRADIENT_BOOSTING, retrain_after=60)
    trainer.rounds.keep_versions = 1
    trainer.run_rounds([540])
    better = trainer.decision
    snapshot, version = trainer.store.snapshot("test"), trainer.store.current_version("test")
    trained_until = snapshot.read_json("metadata.json")["online"]["trained_until"]
    trainer.start(CONSTANT, retrain_after=60)
    trainer.run_rounds([720])
    return WorseStory(trainer, first, better, trained_until, snapshot.manifest, version, trainer.decision)


def test_a_better_challenger_is_published_after_training_on_all_samples(worse_story: WorseStory) -> None:
    # The first training has already used all samples, so no model was trained a second time on all samples.
    assert worse_story.first["trained_on_all"] == []
    assert worse_story.better["decision"] == "published"
    assert "better" in worse_story.better["reason"]
    assert worse_story.trainer.store.versions("test") == [worse_story.better["version"]]  # version 1 was pruned
    (path,) = worse_story.better["trained_on_all"]
    assert worse_story.trained_until_after_better[path] == worse_story.better["data_until"]
    assert worse_story.better["held_out"] >= 30


def test_a_worse_challenger_is_kept_aside(worse_story: WorseStory) -> None:
    decision = worse_story.worse
    assert decision["decision"] == "kept aside"
    assert "worse" in decision["reason"] or "no better" in decision["reason"]
    assert not any(model["better"] for model in decision["models"])
    new, served = decision["models"][0]["new"], decision["models"][0]["served"]
    assert new["components"]["package"]["mae"] > served["components"]["package"]["mae"]
    store = worse_story.trainer.store
    assert store.current_version("test") == worse_story.version_after_better
    assert store.snapshot("test").manifest == worse_story.files_after_better


def test_a_challenger_that_is_kept_aside_can_be_inspected(worse_story: WorseStory) -> None:
    challengers = open_store(str(worse_story.trainer.state_folder.challengers))
    assert worse_story.worse["aside"] in challengers.versions("test")


def test_an_incomplete_task_is_reported_in_one_line() -> None:
    """A retraining process reports an incomplete task in one line.

    The process reads the task from standard input. It is incomplete if the online trainer was killed while writing.
    """
    command = [sys.executable, "-m", MODULE]
    done = subprocess.run(command, input='{"state": "s', check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("the retraining's task is incomplete, the online trainer has ended")
    assert done.stderr.count("\n") == 1
