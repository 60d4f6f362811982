"""Fixtures for tests of plugins, which pytest finds by itself if kepler-core is installed.

kepler_recording           a simulated recording: 6 containers on a machine, 80 timestamps
kepler_recording_file      the same recording as a .json.gz file, for the command line
kepler_observations        the observations of the recording: rates and watts
kepler_dataset             an AbsPower data set of the observations, with a row per node and timestamp
kepler_container_dataset   an AbsPower data set of the observations, with a row per container and timestamp
kepler_store               an empty model store in a temporary folder
kepler_run                 a function that runs `kepler-model` and returns the finished process
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kepler_core.dataset import Dataset
    from kepler_core.recording import Observations, Recording
    from kepler_core.store import Store

# Every run of pytest loads this module, so kepler_core is imported only when a fixture is used.


@pytest.fixture(scope="session")
def kepler_recording() -> Recording:
    """Return a simulated recording: 6 containers on a machine, 80 timestamps, 3 s apart."""
    from kepler_core.testing.samples import small_recording

    return small_recording()


@pytest.fixture(scope="session")
def kepler_recording_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a simulated recording to a .json.gz file and return the path of the file."""
    from kepler_core.simulate import Simulation, write

    path: Path = tmp_path_factory.mktemp("kepler") / "recording.json.gz"
    write(Simulation(containers=6, timestamps=80), str(path))
    return path


@pytest.fixture(scope="session")
def kepler_observations(kepler_recording: Recording) -> Observations:
    """Return the observations of `kepler_recording`: rates and watts."""
    from kepler_core.recording import observe

    return observe([kepler_recording])


@pytest.fixture
def kepler_dataset(kepler_observations: Observations) -> Dataset:
    """Return an AbsPower data set with a row per node and timestamp, with CounterOnly features and RAPL power."""
    from kepler_core.testing.samples import small_dataset

    return small_dataset(observations=kepler_observations)


@pytest.fixture
def kepler_container_dataset(kepler_observations: Observations) -> Dataset:
    """Return an AbsPower data set with a row per container and timestamp, with CounterOnly features and RAPL power."""
    from kepler_core.testing.samples import small_dataset

    return small_dataset(by_container=True, observations=kepler_observations)


@pytest.fixture
def kepler_store(tmp_path: Path) -> Store:
    """Return an empty model store in a temporary folder."""
    from kepler_core.store import open_store

    return open_store(str(tmp_path / "kepler-store"))


@pytest.fixture
def kepler_run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs `kepler-model` in a temporary folder: `kepler_run("train", path, "-s", "models")`."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kepler_core", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
