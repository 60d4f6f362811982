"""Fixtures for tests of trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.training import QUICK_PIPELINE

from kepler_core.simulate import Simulation, write


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File with a recording of two simulated nodes."""
    path = tmp_path_factory.mktemp("data") / "simulated.json.gz"
    write(Simulation(containers=5, timestamps=150, nodes=2), str(path))
    return path


@pytest.fixture(scope="session")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipeline file with linear trainers, whose models are fitted in milliseconds."""
    path = tmp_path_factory.mktemp("pipeline") / "quick.yaml"
    path.write_text(QUICK_PIPELINE)
    return path
