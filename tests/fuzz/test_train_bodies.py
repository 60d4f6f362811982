"""Fuzz the JSON bodies of `POST /train`: each is a valid training request, or is rejected with a one-line error."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from hypothesis import strategies as st
from support.fuzzing import fuzz
from support.trainer_server import request

from kepler_core.errors import RequestError
from kepler_servers.offline_trainer.request import TrainRequest, request_from

KEYS = [
    "name", "energy_source", "trainer", "prome_response", "prom_response", "idle_prom_response", "machine_spec",
    "use_vm_metrics", "pipeline", "abs_trainers", "dyn_trainers", "isolator", "isolator_args", "extractor", "args",
    "validation", "third_party", "feature_groups", "seed", "folds", "processor", "cores", "metric", "values", "",
]  # fmt: skip
FRAGMENTS = [
    b"[" * 70, b"]" * 70, b"{", b"}", b'{"a":' * 1200, b"[" * 1200, b'"', b"\\", b"\xff", b"\0", b"null", b"1e400",
    b"9" * 400, b"-9007199254740993", b'"\\ud800"', b"\xed\xa0\x80", b" " * 50, b'"LinearRegressionTrainer"', b'"rapl"',
    b",", b":",
]  # fmt: skip

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10) | st.sampled_from(KEYS)
values = st.recursive(
    scalars | st.sampled_from(["LinearRegressionTrainer", "min", "rapl", "acpi", "x" * 5000]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), children, max_size=4)
    ),
    max_leaves=12,
)


@lru_cache(maxsize=1)
def good() -> dict[str, Any]:
    """Return a valid training request whose recording has one sample per series."""
    recording = {
        name: [{**item, "values": item["values"][:1]} for item in series]
        for name, series in request()["prome_response"].items()
    }
    return request(prome_response=recording, machine_spec={"processor": "x", "cores": 4})


def check(body: bytes) -> None:
    """Check that a body is a valid training request, or is rejected with a one-line `RequestError`."""
    try:
        assert isinstance(request_from(body), TrainRequest)
    except RequestError as error:
        message = str(error)
        assert "\n" not in message
        assert len(message) < 2000


@st.composite
def changed_requests(draw: st.DrawFn) -> bytes:
    """Generate a training request in which some keys have random values."""
    changes = draw(st.dictionaries(st.sampled_from(KEYS), values, max_size=5))
    trainer = draw(st.dictionaries(st.sampled_from(KEYS), values))
    body: dict[str, Any] = draw(
        st.sampled_from(
            [
                {**good(), **changes},
                {**good(), "trainer": {**good()["trainer"], **trainer}},
                {"pipeline": {"name": "x", **trainer}, "prom_response": {}, **changes},
            ]
        )
    )
    return json.dumps(body).encode()


@st.composite
def damaged_requests(draw: st.DrawFn) -> bytes:
    """Generate a training request in which up to three pieces are replaced by other bytes."""
    body = bytearray(json.dumps(good()).encode())
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(body)))
        end = min(len(body), start + draw(st.integers(0, 40)))
        body[start:end] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=8))
    return bytes(body)


any_bytes = st.binary(max_size=100) | st.lists(st.sampled_from(FRAGMENTS), max_size=10).map(b"".join)


def test_bodies() -> None:
    fuzz(changed_requests() | damaged_requests() | any_bytes, check)
