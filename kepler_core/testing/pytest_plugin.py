"""Fixtures for tests of plugins; pytest finds them where kepler-core is installed.

kepler_recording        a simulated Recording, 6 containers on a machine, 80 timestamps
kepler_recording_file   the same as a .json.gz file, for the command line
kepler_observations     what it says: rates and watts
kepler_dataset          an AbsPower data set of it, by node
kepler_container_dataset   the same by container
kepler_store            an empty model store in a temporary folder
kepler_run              runs `kepler-model` with arguments, gives the finished process
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

# Nothing of the framework is imported before a fixture is used: every run of pytest loads this module.


@pytest.fixture(scope="session")
def kepler_recording() -> Recording:
    """A simulated recording: 6 containers on a machine, 80 timestamps, 3 s apart."""
    from kepler_core.testing.samples import small_recording

    return small_recording()


@pytest.fixture(scope="session")
def kepler_recording_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same recording as a file."""
    from kepler_core.simulate import Simulation, write

    path: Path = tmp_path_factory.mktemp("kepler") / "recording.json.gz"
    write(Simulation(containers=6, timestamps=80), str(path))
    return path


@pytest.fixture(scope="session")
def kepler_observations(kepler_recording: Recording) -> Observations:
    """Rates and watts of the recording."""
    from kepler_core.recording import observe

    return observe([kepler_recording])


@pytest.fixture
def kepler_dataset(kepler_observations: Observations) -> Dataset:
    """An AbsPower data set by node: features of CounterOnly, power of rapl-sysfs."""
    from kepler_core.testing.samples import small_dataset

    return small_dataset(observations=kepler_observations)


@pytest.fixture
def kepler_container_dataset(kepler_observations: Observations) -> Dataset:
    """The same by container."""
    from kepler_core.testing.samples import small_dataset

    return small_dataset(by_container=True, observations=kepler_observations)


@pytest.fixture
def kepler_store(tmp_path: Path) -> Store:
    """An empty model store."""
    from kepler_core.store import open_store

    return open_store(str(tmp_path / "kepler-store"))


@pytest.fixture
def kepler_run(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`kepler_run("train", path, "-s", "models")`: runs kepler-model in a temporary folder."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "kepler_core", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    return run
