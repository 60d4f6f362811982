"""Fixtures for the tests of the estimator."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.linear_models import ALL, publish


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the folder of a model store that contains the models `ALL`."""
    publish(tmp_path / "store", *ALL)
    return tmp_path / "store"
