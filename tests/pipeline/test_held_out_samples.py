"""Tests of the file in which a training stores its held-out samples and the predictions for them."""

from __future__ import annotations

import gzip
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.errors import StoreError
from kepler_core.models.power_model import HELD_OUT_FILE
from kepler_core.pipeline.evidence import Evidence
from kepler_core.pipeline.fit import FitResult
from kepler_core.pipeline.held_out_samples import HeldOutSamples, read_held_out_samples, with_held_out_samples

DOCUMENT: dict[str, Any] = {
    "node_names": ["n"],
    "time": [1.0, 2.0],
    "node": [0, 0],
    "measured": {"package": [3.0, 4.0]},
    "predicted": {"blocks": {"package": [3.5, None]}},
}


def kept(start: int, end: int, most: int, node: str = "n") -> HeldOutSamples:
    """Return the held-out samples (at most `most`) that a training on samples from `start` to `end` seconds stores."""
    time = np.arange(start, end, dtype=float)
    evidence = Evidence(
        metadata={},
        held_out={"blocks": {"package": np.where(time % 5 == 0, np.nan, time)}},
        measured={"package": time + 1},
        time=time,
        node=np.zeros(len(time), dtype=np.int64),
        node_names=[node],
        load_feature="cpu_cycles",
        load=time,
    )
    (result,) = with_held_out_samples([FitResult({}, {}, {}, None)], {0: evidence}, most)
    assert result.files is not None
    return read_held_out_samples(result.files[HELD_OUT_FILE], "held_out")


def test_trainings_on_overlapping_data_keep_the_same_samples() -> None:
    first, second = kept(0, 2000, 200), kept(1000, 3000, 200)
    common = set(first.keys) & set(second.keys)
    # Half of each training's samples are also in the other training. Each training stores the 200 samples with the
    # lowest hashes, and about 100 of them are in both trainings.
    assert len(common) > 80
    assert all(1000 <= time < 2000 for _, time in common)
    assert len(first.time) == 200


def test_the_samples_of_a_node_depend_on_its_name() -> None:
    assert set(kept(0, 2000, 200).time) != set(kept(0, 2000, 200, "other").time)


def test_only_samples_that_were_tested_are_kept() -> None:
    samples = kept(0, 100, 200)
    assert len(samples.time) == 80
    assert (samples.measured["package"] - samples.predicted["blocks"]["package"] == 1).all()


def test_nothing_is_kept_if_no_samples_are_wanted() -> None:
    result = FitResult({}, {"a": b""}, {}, None)
    assert with_held_out_samples([result], {}, 0) == [result]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"node": [0, 1]}, "a node has no name"),
        ({"node": [0]}, "equally many"),
        ({"measured": {"package": [1.0]}}, "equally many"),
        ({"predicted": {"days": {}}}, "days"),
        ({"time": [1.0, 1e300]}, "time"),
        ({"more": 1}, "more"),
    ],
)
def test_damage_is_named(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(StoreError, match=problem):
        read_held_out_samples(gzip.compress(json.dumps(DOCUMENT | change).encode()), "x/held_out.json.gz")


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(gzip.compress)))
def test_any_bytes_raise_one_error_or_none(content: bytes) -> None:
    with pytest.raises(StoreError, match=r"^x: "):
        read_held_out_samples(content, "x")
