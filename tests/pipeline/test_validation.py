"""Tests of validation: the division of samples into folds, and the scores of predictions."""

from __future__ import annotations

import json

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import power_law
from support.power_law import CPU_TIME, change, observations_of

from kepler_core.errors import TrainingError
from kepler_core.pipeline.rows import training_rows
from kepler_core.pipeline.spec import ValidationSpec
from kepler_core.pipeline.validation import baselines, block_length, folds, score
from kepler_core.plugins import registry


@given(
    n=st.integers(60, 300),
    step=st.floats(0.5, 60),
    n_folds=st.integers(2, 6),
    streams=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_blocks_are_apart_in_time(n: int, step: float, n_folds: int, streams: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stream = np.sort(rng.integers(0, streams, n))
    time = 1e9 + np.arange(n) * step
    spec = ValidationSpec(folds=n_folds)
    held_out = folds(spec, stream, time)
    assert not np.any([fold.train & fold.test for fold in held_out])
    tested = np.sum([fold.test for fold in held_out], axis=0)
    assert tested.max() == 1
    for code in np.unique(stream):
        rows = stream == code
        length = time[rows].max() - time[rows].min() + step
        if rows.sum() < 2:
            continue
        gap = block_length(length, float(np.median(np.diff(time[rows]))), n_folds) / 4
        for fold in held_out:
            train, test = time[rows & fold.train], time[rows & fold.test]
            if len(train) and len(test):
                nearest = np.min(np.abs(train[:, None] - test[None, :]))
                # training and test rows are at least a gap apart; if a step is shorter than a gap, a step is enough
                assert nearest >= min(gap, step) - 1e-6


def test_every_timestamp_is_tested_once() -> None:
    time = 1e9 + 3.0 * np.arange(1500)
    held_out = folds(ValidationSpec(), np.zeros(1500, dtype=np.int64), time)
    assert len(held_out) == 5
    assert (np.sum([fold.test for fold in held_out], axis=0) == 1).all()


@pytest.mark.parametrize("levels", [2, 5, 10])
def test_a_periodic_load_is_not_held_out_level_by_level(levels: int) -> None:
    """The load changes periodically, so each held-out block of time has a single level of load.

    Nevertheless, each fold trains on all levels of load.
    """
    block, n = 60.0, 1500
    time = 1e9 + 3.0 * np.arange(n)
    level = ((time - time[0]) // block).astype(int) % levels
    for fold in folds(ValidationSpec(block_seconds=block), np.zeros(n, dtype=np.int64), time):
        assert set(level[fold.train]) == set(range(levels))


def test_the_seed_decides_which_fold_tests_a_block() -> None:
    stream, time = np.zeros(1500, dtype=np.int64), 1e9 + 3.0 * np.arange(1500)
    first, again, other = (folds(ValidationSpec(), stream, time, seed=seed) for seed in (0, 0, 1))
    assert all((a.test == b.test).all() for a, b in zip(first, again, strict=True))
    assert not all((a.test == b.test).all() for a, b in zip(first, other, strict=True))


def test_a_shuffled_copy_gives_the_same_folds() -> None:
    rng = np.random.default_rng(0)
    time = 1e9 + 3.0 * np.arange(400)
    order = rng.permutation(400)
    straight = folds(ValidationSpec(), np.zeros(400, dtype=np.int64), time)
    shuffled = folds(ValidationSpec(), np.zeros(400, dtype=np.int64), time[order])
    for a, b in zip(straight, shuffled, strict=True):
        assert (a.test[order] == b.test).all()
        assert (a.train[order] == b.train).all()


def test_last_is_the_end_of_each_recording() -> None:
    time = np.concatenate([np.arange(100.0), np.arange(100.0)])
    stream = np.repeat([0, 1], 100)
    (fold,) = folds(ValidationSpec(scheme="last", last_fraction=0.3, gap_seconds=5), stream, time)
    assert fold.test.sum() == 2 * 30
    assert time[fold.test].min() > time[fold.train].max() + 4


def test_recordings_are_held_out_whole() -> None:
    time = np.concatenate([np.arange(30.0), np.arange(40.0)])
    stream = np.repeat([0, 1], [30, 40])
    held_out = folds(ValidationSpec(scheme="recordings"), stream, time)
    assert [int(fold.test.sum()) for fold in held_out] == [30, 40]
    with pytest.raises(TrainingError, match="two recordings"):
        folds(ValidationSpec(scheme="recordings"), np.zeros(30, dtype=np.int64), np.arange(30.0))


def test_too_few_timestamps() -> None:
    with pytest.raises(TrainingError, match="only 19 usable timestamps; at least 20"):
        folds(ValidationSpec(), np.zeros(19, dtype=np.int64), np.arange(19.0))


def test_score_by_hand() -> None:
    measured = np.array([0.0, 10.0, 20.0, 40.0] * 5)
    predicted = measured + np.array([1.0, 2.0, -2.0, 4.0] * 5)
    load = np.array([0.0, 1.0, 2.0, 3.0] * 5)
    errors = score(predicted, measured, load)
    assert errors.mae == pytest.approx(2.25)
    assert errors.mape_floor == pytest.approx(2.0)
    assert errors.mape == pytest.approx(100 * (0.2 + 0.1 + 0.1) / 3)  # rows with power below `mape_floor` do not count
    assert errors.idle_error == pytest.approx(1.0)
    assert errors.r2 == pytest.approx(1 - (1 + 4 + 4 + 16) / np.sum((measured[:4] - 17.5) ** 2))


def test_score_of_a_constant_component() -> None:
    errors = score(np.zeros(10), np.zeros(10), np.zeros(10))
    assert attrs.asdict(errors) == {
        "mae": 0.0,
        "mape": None,
        "mape_floor": 0.1,
        "idle_error": 0.0,
        "r2": None,
        "rows": 10,
    }


def test_baselines_of_a_line_and_of_noise() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 10, 200)
    stream, time = np.zeros(200, dtype=np.int64), np.arange(200.0)
    held_out = folds(ValidationSpec(), stream, time)
    on_a_line = baselines(held_out, np.ones(200, dtype=bool), x, 3 * x + 5)
    assert on_a_line["line_mae"] == pytest.approx(0, abs=1e-9)
    assert on_a_line["constant_mae"] > 5
    level = baselines(held_out, np.ones(200, dtype=bool), np.zeros(200), np.full(200, 7.0))
    assert level == {"constant_mae": 0.0, "line_mae": 0.0}


@pytest.mark.parametrize("scheme", ["blocks", "last"])
def test_gaps_are_at_least_as_long_as_the_memory_of_the_extractor(scheme: str) -> None:
    time = 1e9 + 3.0 * np.arange(1500)
    spec = ValidationSpec(scheme=scheme, gap_seconds=0)  # type: ignore[arg-type]
    for memory in (1, 20):
        for fold in folds(spec, np.zeros(1500, dtype=np.int64), time, memory):
            apart = np.abs(time[fold.train][:, None] - time[fold.test][None, :]).min()
            assert apart >= 3.0 * memory


def test_rows_of_a_short_recording_are_apart() -> None:
    time = 1e9 + 3.0 * np.arange(25)
    for fold in folds(ValidationSpec(), np.zeros(25, dtype=np.int64), time):
        assert np.abs(time[fold.train][:, None] - time[fold.test][None, :]).min() >= 6.0


@pytest.mark.parametrize("by_container", [False, True])
def test_load_is_the_cpu_load_for_every_component(by_container: bool) -> None:
    page_cache = "kepler_container_bpf_page_cache_hit_total"
    content = power_law.document(samples=100)
    # The machine reads files while its CPUs are idle, so the page cache hits are lowest at the highest CPU load.
    content[page_cache] = json.loads(json.dumps(content[CPU_TIME]))
    for series in content[page_cache]:
        series["metric"]["__name__"] = page_cache
        change(series, lambda values: np.cumsum(1e5 / (1 + np.diff(values, prepend=0.0))))
    observations = observations_of(content)
    features = ("bpf_cpu_time_ms", "bpf_page_cache_hit")
    extractor = registry.extractors.create("DefaultExtractor")
    dataset = extractor.extract(observations, features, "rapl-sysfs", ("package", "dram"), by_container=by_container)
    rows = training_rows(dataset, 2000, 10000, 0)
    busy = rows.load >= np.quantile(rows.load, 0.9)
    assert rows.node_watts["dram"][busy].min() > np.quantile(rows.node_watts["dram"], 0.8)
    assert rows.node_watts["dram"][rows.load <= np.quantile(rows.load, 0.1)].max() < np.median(rows.node_watts["dram"])
