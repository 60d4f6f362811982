"""Fixtures that several test modules use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support.paths import SHARED

from kepler_core.simulate import Simulation, recording

# The same examples on every run, and no time limit on a busy machine.
settings.register_profile("kepler", deadline=None, derandomize=True, database=None)
settings.load_profile("kepler")

_LONGEST = (
    "test_training_interruptions.py",
    "test_training_requests.py",
    "test_training_jobs.py",
    "test_train.py",
    "test_retraining.py",
    "test_kills.py",
    "test_plugin_distributions.py",
    "test_third_party_plugins.py",
    "test_plugin_checks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the users of `recordings`, and start with the files that take longest.

    If a long file came last, one worker would run it alone while the others are idle.
    """
    for item in items:
        if "recordings" in getattr(item, "fixturenames", ()):
            item.add_marker("shared_data")
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report how many of the tests that need `../shared/data` ran."""
    ran, skipped = (
        {
            report.nodeid
            for outcome in outcomes
            for report in terminalreporter.stats.get(outcome, ())
            if "shared_data" in getattr(report, "keywords", ())
        }
        for outcomes in (("passed", "failed", "error", "xfailed", "xpassed"), ("skipped",))
    )
    if ran or skipped:
        terminalreporter.write_line(f"tests with shared data: {len(ran)} ran, {len(skipped)} skipped")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; they are not part of the project."""
    folder = SHARED / "data" / "recordings"
    if not folder.is_dir():
        pytest.skip("the real recordings (../shared/data/recordings) are not here")
    return folder


@pytest.fixture
def small() -> dict[str, list[dict[str, Any]]]:
    """A small simulated recording, new for every test: it may be changed."""
    return recording(Simulation(containers=6, timestamps=120))
