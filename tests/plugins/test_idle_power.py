"""Tests of the idle power that `MinIdleIsolator` subtracts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from support.command import kepler
from support.paths import SHARED
from support.steady_load import steady

from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.plugins import registry
from kepler_core.recording import observe, read_recording
from kepler_core.simulate import true_power

FEATURES = ("cache_miss", "cpu_cycles", "cpu_instructions")
LOADED = np.tile([0.3, 0.9, 0.5, 0.7], 15)
IDLE = np.full(30, 0.002)
IDLE_WATTS = true_power(np.array([0.002]), np.zeros(1), 2)
STRESS_NG = SHARED / "data" / "recordings" / "kepler_stressng.json.gz"


def isolated(document: Any, features: tuple[str, ...] = FEATURES) -> Dataset:
    observations = observe([read_recording(document)])
    extractor = registry.extractors.create("default")
    components = observations.sources["rapl-sysfs"]
    dataset = extractor.extract(observations, features, "rapl-sysfs", components, by_container=True)
    return registry.isolators.create("min").isolate(dataset, IsolationContext(observations))


def test_idle_power_is_the_median_of_the_quiet_times() -> None:
    dataset = isolated(steady(np.concatenate([LOADED, IDLE, LOADED])))
    assert dataset.background is not None
    assert not [note for note in dataset.notes if "never idle" in note]
    for component in ("package", "dram"):
        subtracted = dataset.background[f"{component}_power"].max()
        assert subtracted == pytest.approx(IDLE_WATTS[component][0], rel=0.01)
    lowest = (dataset.background + dataset.node_power()).min()
    assert lowest["package_power"] < dataset.background["package_power"].max()


def test_feature_groups_of_alike_load_have_the_same_idle_power() -> None:
    document = steady(np.concatenate([LOADED, IDLE, LOADED]))
    first, second = isolated(document).background, isolated(document, ("bpf_cpu_time_ms",)).background
    assert first is not None
    assert second is not None
    assert first["package_power"].max() == second["package_power"].max()


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param(LOADED, id="always loaded"),
        pytest.param(np.tile([0.5, 0.7, 0.9, 0.002], 15), id="idle for single intervals only"),
        pytest.param(np.concatenate([LOADED, IDLE[:6]]), id="too few idle timestamps"),
    ],
)
def test_a_node_that_was_never_idle_is_noted(busy: Any) -> None:
    dataset = isolated(steady(busy))
    assert len([note for note in dataset.notes if "was never idle" in note]) == 1
    assert dataset.background is not None
    measured = (dataset.background + dataset.node_power())["package_power"]
    assert measured.min() <= dataset.background["package_power"].max() <= measured.quantile(0.3)


def test_power_that_does_not_follow_the_load_is_no_idle_power() -> None:
    document = steady(np.concatenate([LOADED, IDLE, LOADED]))
    for name, series in document.items():
        if "joules" in name:  # delay the meter's values by 45 s
            for item in series:
                values = item["values"]
                item["values"] = [[time, values[max(at - 15, 0)][1]] for at, (time, _) in enumerate(values)]
    dataset = isolated(document)
    assert [note for note in dataset.notes if "was never idle" in note]


def test_train_prints_and_keeps_the_note(tmp_path: Any) -> None:
    (tmp_path / "loaded.json").write_text(json.dumps(steady(LOADED)))
    done = kepler(
        "train", "quickstart", "-i", tmp_path / "loaded.json", "-s", tmp_path / "store",
        "--set", "abs_trainers=[]", "--set", "dyn_trainers=[SGDRegressorTrainer]",
        "--set", "energy_sources=[rapl-sysfs]", "--set", "feature_groups=[CounterOnly]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "was never idle" in done.stdout
    notes = json.loads((tmp_path / "store" / "quickstart" / "metadata.json").read_text())["notes"]
    assert any("was never idle" in note["note"] for note in notes)


@pytest.mark.skipif(not STRESS_NG.exists(), reason=f"no {STRESS_NG}")
def test_idle_power_of_a_real_machine() -> None:
    dataset = isolated(STRESS_NG)
    assert dataset.background is not None
    assert not [note for note in dataset.notes if "never idle" in note]
    assert dataset.background["package_power"].max() == pytest.approx(32.0, rel=0.02)
