"""Test rounds of the online trainer with failing servers, wrong clocks, unusable files, and several trainers."""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.online_trainer import PIPELINE, Content, TrainerUnderTest, cut, expected_samples
from support.prometheus_answers import END, REFUSED, USED, matrix
from support.prometheus_process import PrometheusProcess, Reply, answering, prometheus

from kepler_core.pipeline.load import load_pipeline
from kepler_core.pipeline.observing import observe_for
from kepler_core.prometheus import PrometheusClient, Server
from kepler_core.recording import read_recording
from kepler_core.simulate import START, Simulation, recording
from kepler_servers.online_trainer.app import health
from kepler_servers.online_trainer.fetching import Fetcher
from kepler_servers.online_trainer.sample_files import SampleStoreError


def check_complete(trainer: TrainerUnderTest, content: Content, until: float) -> None:
    """Check that the store contains each sample of `content` up to the time `until` exactly once."""
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


def test_a_step_is_rounded_to_the_scrape_interval(tmp_path: Path) -> None:
    """Samples are fetched every 5 s, the scrape interval, although the configured step is 3 s.

    With a step of 3 s, the watts would be alternately too low and too high.
    """
    pipeline = tmp_path / "test.yaml"
    pipeline.write_text(PIPELINE)
    whole = recording(Simulation(containers=2, timestamps=60, step=5))
    expected = observe_for(load_pipeline(pipeline), [read_recording(whole)])
    with prometheus(tmp_path / "prometheus", whole) as server:
        client = PrometheusClient(Server(server.url), patience=0)
        fetcher = Fetcher(client, load_pipeline(pipeline), 3.0, None, ())
        (observations,) = fetcher.fetch_groups(START, START + 5 * 59, threading.Event())
    assert observations.sample_time.tolist() == expected.sample_time.tolist()
    for key, watts in observations.power.items():
        np.testing.assert_allclose(watts, expected.power[key])


def test_clocks_that_jump(server: PrometheusProcess, content: Content, tmp_path: Path) -> None:
    trainer = TrainerUnderTest(tmp_path, server.url)
    assert trainer.run_round(120)
    trainer.client.time = START + 1e6  # the clock jumps to a time at which the server has no samples
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
    first.write_bytes(b"no Parquet")  # the file is damaged while the trainer runs
    with pytest.raises(SampleStoreError):
        samples.table()
    samples.recheck()
    assert trainer.run_round(220)
    check_complete(trainer, content, 220)
    (first.parent / "9999.parquet").write_bytes(b"no Parquet")  # the file is damaged before the trainer starts
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
    assert second.rounds.drift.version is None  # the served version has no model of the second trainer's node type
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


@pytest.mark.parametrize("body", [*REFUSED.values(), *(body for body, _ in USED.values())], ids=[*REFUSED, *USED])
def test_a_round_uses_all_metrics_or_none(body: bytes, tmp_path: Path) -> None:
    """If the answer for one metric is unusual or hostile, the round uses the samples of all metrics or no samples."""
    content = recording(Simulation(containers=2, timestamps=60, sockets=1, accelerator=False, seed=1))
    odd = "kepler_node_package_joules_total"

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        if "/label/" in path:
            return 200, {}, json.dumps({"status": "success", "data": list(content)}).encode()
        parameters = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(path).query))
        query = re.fullmatch(r"(\w+)(?:\{.*\})?\[(\d+)ms\]", parameters["query"])
        assert query is not None
        if query[1] == odd:
            return 200, {}, body
        until = float(parameters["time"]) - START
        return 200, {}, matrix(*cut({query[1]: content[query[1]]}, until - int(query[2]) / 1000, until)[query[1]])

    with answering(reply) as url:
        trainer = TrainerUnderTest(tmp_path, url)
        trainer.start(backfill=END - START)
        succeeded = trainer.run_round(END - START)
    status = trainer.rounds.status
    assert succeeded == (body not in REFUSED.values())
    if succeeded:
        assert trainer.stored_samples()
    else:
        assert status.problem is not None
        assert status.problem.startswith(f"{odd}: ")
        assert set(status.problems) <= {"answer", "partial", "refused"}
        assert not trainer.stored_samples()


def test_samples_without_power_are_logged_once(
    content: Content, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """If an energy counter never rises, the power is unknown, not 0 W. This is so from the first round on."""
    no_power = {
        metric: [
            {**series, "values": [[time, "5"] for time, _ in series["values"]]} if "_joules_" in metric else series
            for series in rows
        ]
        for metric, rows in content.items()
    }
    with prometheus(tmp_path / "prometheus", no_power) as server:
        trainer = TrainerUnderTest(tmp_path, server.url)
        assert trainer.run_round(30)
        assert trainer.run_round(60)
    assert trainer.stored_samples() == []
    assert trainer.rounds.status.lag is None
    assert len([record for record in caplog.records if "none can be used" in record.message]) == 1
