"""Test training from a Parquet recording in parts. The models are equal for any size of parts and all workers."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.command import kepler
from support.training import train

from kepler_core.parquet import RecordingWriter, write_recording
from kepler_core.recording import read_recording
from kepler_core.simulate import Simulation, recording

pytest.importorskip("pyarrow")

ROWS = 6000
"""Number of rows to keep; the recording has 20,000."""
SETTINGS = ("--set", "energy_sources=[rapl-sysfs]", "--set", "feature_groups=[BPFOnly]", "--sample-rows", str(ROWS))


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "r.parquet"
    content = msgspec.json.encode(recording(Simulation(nodes=5, containers=3, timestamps=1000, churn=0.0)))
    with RecordingWriter(path, "a") as writer:
        write_recording(read_recording(content, name="r"), writer)
    return path


def models_of(store: Path) -> dict[str, bytes]:
    """Return the content of all models in a store, by path."""
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(store.rglob("*.zip"))}


def test_parts_and_workers_change_no_model(quick: Path, parquet: Path, tmp_path: Path) -> None:
    ways = {
        "one part": ("--jobs", "1"),
        "one worker": ("--jobs", "1", "--part-samples", "1"),
        "two workers": ("--jobs", "2", "--part-samples", "1"),
        "two parts": ("--jobs", "1", "--part-samples", "80000"),
    }
    models = {}
    for name, options in ways.items():
        report = train(quick, "-i", parquet, "-s", tmp_path / name, *SETTINGS, *options)
        assert len(report["models"]) == 3
        assert report["models"][0]["seen"]["samples"] < 5000
        models[name] = models_of(tmp_path / name)
    assert len(models["one part"]) >= 3
    for name, content in models.items():
        assert content == models["one part"], name


def test_dask_workers_change_no_model(quick: Path, parquet: Path, tmp_path: Path) -> None:
    """Models are the same if the workers of a Dask cluster read the parts of the recording."""
    distributed = pytest.importorskip("distributed")
    train(quick, "-i", parquet, "-s", tmp_path / "local", *SETTINGS)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        train(
            quick, "-i", parquet, "-s", tmp_path / "dask", *SETTINGS, "--part-samples", "1",
            "--backend", "dask", "--scheduler", cluster.scheduler_address,
        )  # fmt: skip
    assert models_of(tmp_path / "dask") == models_of(tmp_path / "local")


def test_a_sample_is_reported(quick: Path, parquet: Path, tmp_path: Path) -> None:
    done = kepler("train", quick, "-i", parquet, "-s", tmp_path, *SETTINGS, "--jobs", "1")
    assert done.returncode == 0
    assert "trained on a sample of" in done.stderr
    assert "of 5000 timestamps of nodes" in done.stderr
    whole = kepler("train", quick, "-i", parquet, "-s", tmp_path, *SETTINGS[:-1], "1000000", "--jobs", "1")
    assert whole.returncode == 0
    assert "sample of" not in whole.stderr
