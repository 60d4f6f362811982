"""Test of the number of fits that run at the same time without `--jobs`."""

from __future__ import annotations

import os

import pytest

from kepler_core.pipeline.parallel import usable_cpus


def test_the_cpu_affinity_limits_the_number_of_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT")  # set in conftest.py
    cpus = os.sched_getaffinity(0)
    assert 1 <= usable_cpus() <= len(cpus)
    os.sched_setaffinity(0, {min(cpus)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, cpus)


def test_an_environment_variable_limits_the_number_of_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert usable_cpus() == 1
