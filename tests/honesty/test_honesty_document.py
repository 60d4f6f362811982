"""Test that the block `honesty` of metadata is decoded and encoded unchanged, or rejected with a one-line error."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from kepler_core.errors import ModelError
from kepler_core.honesty.document import HONESTY_KEY, read_honesty
from kepler_core.honesty.flags import EXPLANATIONS, flags
from kepler_core.honesty.interval import SAME_MACHINE, SAME_TYPE

ERRORS = {"mae": 2.0, "components": {"package": {"mae": 2.0, "bias": -1.0, "idle_bias": 0.5, "rows": 9}}, "parts": 5}
BLOCK: dict[str, Any] = {
    "splits": {"blocks": ERRORS, "regimes": None, "recordings": None, "nodes": None},
    "hardest": "blocks",
    "seen": {"recordings": 1, "days": 1, "nodes": 1, "samples": 9, "features": {"cpu_cycles": [0.0, 1e9]}},
    "level": 0.9,
    "intervals": {
        "package": {
            "lowest": 50.0, "highest": 150.0, "edges": [80.0, 100.0], "quantiles": [1.0, 2.0, 3.0], "session": 4.0,
            "machine_idle": 0.2, "machine_loaded": 0.1, "noise": 1.0,
        }
    },
}  # fmt: skip


def test_a_block_survives_a_round_trip() -> None:
    honesty = read_honesty({HONESTY_KEY: BLOCK})
    assert honesty is not None
    assert read_honesty({HONESTY_KEY: msgspec.to_builtins(honesty)}) == honesty


def test_models_of_other_programs_have_no_block() -> None:
    assert read_honesty({"mae": 1.0}) is None


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(block: dict[str, Any]) -> None:
        for key in path[:-1]:
            block = block[key]
        block[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("splits", value=[]),
        _set("splits", "moons", value=None),
        _set("splits", value={}),
        _set("hardest", value="regimes"),
        _set("hardest", value="moons"),
        _set("level", value=1.0),
        _set("level", value=math.nan),
        _set("other", value=1),
        _set("seen", "samples", value=-1),
        _set("seen", "features", "cpu_cycles", value=[0.0]),
        _set("intervals", "package", "edges", value=[100.0, 80.0]),
        _set("intervals", "package", "edges", value=[80.0]),
        _set("intervals", "package", "quantiles", value=[]),
        _set("intervals", "package", "quantiles", value=[1.0, 2.0, math.nan]),
        _set("intervals", "package", "edges", value=[math.nan, math.nan]),
        _set("intervals", "package", "session", value=math.inf),
        _set("intervals", "package", "session", value=-1.0),
        _set("intervals", "package", "machine_idle", value="0.1"),
        _set("intervals", "package", value=None),
    ],
)
def test_a_malformed_block_is_an_error_of_one_line(change: Callable[[dict[str, Any]], None]) -> None:
    block = copy.deepcopy(BLOCK)
    change(block)
    with pytest.raises(ModelError, match=r"^metadata\.json: honesty: ") as caught:
        read_honesty({HONESTY_KEY: block})
    assert "\n" not in str(caught.value)


def test_flags_are_raised_by_their_reasons() -> None:
    honesty = read_honesty({HONESTY_KEY: BLOCK})
    assert honesty is not None
    assert flags(honesty, SAME_MACHINE, outside=False, disagrees=False) == ["one_session_only"]
    assert flags(honesty, SAME_TYPE, outside=True, disagrees=True) == list(EXPLANATIONS)
    honesty.splits["recordings"] = honesty.splits["blocks"]
    assert flags(honesty, SAME_MACHINE, outside=False, disagrees=False) == []
