"""Rounds of the online trainer when something is wrong, and of several trainers."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.online_trainer import Content, TrainerUnderTest, expected_samples
from support.prometheus_process import PrometheusProcess

from kepler_core.simulate import START
from kepler_servers.online_trainer.app import health
from kepler_servers.online_trainer.sample_files import SampleStoreError


def check_complete(trainer: TrainerUnderTest, content: Content, until: float) -> None:
    """Check that each sample up to a time is stored once."""
    assert sorted(trainer.stored_samples()) == expected_samples(content, until)


def test_an_unreachable_server_degrades_the_health_until_it_answers(
    server: PrometheusProcess, content: Content, tmp_path: Path
) -> None:
    trainer = TrainerUnderTest(tmp_path, "http://127.0.0.1:1")
    assert not trainer.run_round(120)
    assert health(trainer.rounds).status == "degraded"
    assert "does not answer" in (health(trainer.rounds).problem or "")
    assert trainer.rounds.status.problems == {"unreachable": 1}
    trainer.client.location = server.url
    assert trainer.run_round(120)
    assert health(trainer.rounds).status == "ok"


def test_clocks_that_jump(server: PrometheusProcess, content: Content, tmp_path: Path) -> None:
    trainer = TrainerUnderTest(tmp_path, server.url)
    assert trainer.run_round(120)
    trainer.client.time = START + 1e6  # the server has no samples at that time
    assert trainer.rounds.try_round()
    assert trainer.rounds.status.rounds["empty"] == 1
    assert trainer.run_round(90)
    assert trainer.run_round(180)
    assert len(trainer.stored_samples()) == len(set(trainer.stored_samples()))
    check_complete(trainer, content, 180)


def test_a_sample_store_that_is_absent_for_a_while(server: PrometheusProcess, content: Content, tmp_path: Path) -> None:
    trainer = TrainerUnderTest(tmp_path, server.url)
    assert trainer.run_round(120)
    folder = trainer.state_folder.samples
    folder.rename(tmp_path / "away")
    folder.write_bytes(b"")
    assert not trainer.run_round(180)
    assert trainer.rounds.status.problems["memory"] == 1
    folder.unlink()
    (tmp_path / "away").rename(folder)
    assert trainer.run_round(180)
    check_complete(trainer, content, 180)


def test_a_restart_continues_from_the_stored_samples(
    server: PrometheusProcess, content: Content, tmp_path: Path
) -> None:
    trainer = TrainerUnderTest(tmp_path, server.url)
    assert trainer.run_round(120)
    trainer.start()
    assert trainer.run_round(180)
    check_complete(trainer, content, 180)


def test_damaged_files_are_fetched_again(server: PrometheusProcess, content: Content, tmp_path: Path) -> None:
    trainer = TrainerUnderTest(tmp_path, server.url)
    trainer.run_rounds((120, 150, 180, 210))
    samples = trainer.rounds.samples
    first = min(samples.folder.glob("*.parquet"), key=lambda path: int(path.stem))
    first.write_bytes(b"no Parquet")  # while the trainer runs
    with pytest.raises(SampleStoreError):
        samples.table()
    samples.recheck()
    assert trainer.run_round(220)
    check_complete(trainer, content, 220)
    (first.parent / "9999.parquet").write_bytes(b"no Parquet")  # before the trainer starts
    trainer.start()
    assert health(trainer.rounds).memory.damaged_files == 1
    assert trainer.rounds.status.problems["memory"] == 1
    assert trainer.run_round(230)
    check_complete(trainer, content, 230)


def test_trainers_of_two_node_types_share_a_pipeline(server: PrometheusProcess, tmp_path: Path) -> None:
    first = TrainerUnderTest(tmp_path, server.url)
    first.run_rounds((120, 240, 360, 420))
    assert first.rounds.drift.version == 1
    spec = {"processor": "intel_xeon", "cores": 64}
    second = TrainerUnderTest(tmp_path, server.url, machine_spec=spec, state="second")
    assert second.run_round(120)
    assert second.rounds.drift.version is None  # the served version has no model of its node type
    second.run_rounds((240, 360, 420))
    assert second.decision["trigger"] == "first models"
    assert second.decision["decision"] == "published"
    assert first.run_round(430)
    for trainer, node_type in ((first, 0), (second, 1)):
        assert trainer.rounds.drift.version == 2
        assert [watched.entry.node_type for watched in trainer.rounds.drift.watched] == [node_type]
        assert trainer.rounds.drift.node_type == node_type
    first.start()
    first.rounds.drift.refresh()
    first.rounds._restore_progress()
    assert first.decision == first.store.decisions("test")[0]
