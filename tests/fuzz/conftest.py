"""Sets the duration of each fuzz test (a test that checks random inputs), and reports the number of its inputs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import fuzzing

TOTAL_VARIABLE = "KEPLER_FUZZ_TOTAL_SECONDS"
"""Environment variable: the number of seconds that all fuzz tests together may run.

If the variable `KEPLER_FUZZ_SECONDS` is set, it is used in place of this one.
"""
_INPUTS = "fuzz inputs"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Divide the seconds in `TOTAL_VARIABLE` equally among the fuzz tests that run."""
    targets = sum(Path(__file__).parent in item.path.parents for item in items)
    total = os.environ.get(TOTAL_VARIABLE)
    if total and targets and not os.environ.get(fuzzing.SECONDS_VARIABLE):
        os.environ[fuzzing.SECONDS_VARIABLE] = str(float(total) / targets)


@pytest.fixture(autouse=True)
def count_inputs(record_property: Any) -> Iterator[None]:
    """Record in the report of a fuzz test how many inputs it has checked."""
    before = fuzzing.inputs_checked
    yield
    record_property(_INPUTS, fuzzing.inputs_checked - before)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Report the number of inputs of each fuzz test."""
    inputs = {
        report.nodeid: dict(report.user_properties)[_INPUTS]
        for reports in terminalreporter.stats.values()
        for report in reports
        if _INPUTS in dict(getattr(report, "user_properties", ()))
    }
    for target, number in sorted(inputs.items()):
        terminalreporter.write_line(f"{_INPUTS}: {number:>9,}  {target.rpartition('/')[2]}")
