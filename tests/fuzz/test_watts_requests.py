"""Fuzz requests for watts: the estimator decodes each request, or refuses it with an error of one line."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from hypothesis import strategies as st
from support.fuzzing import damaged, fuzz, mostly
from support.server_process import check_one_line

from kepler_servers.estimator.framing import NotAnObjectError, RequestBuffer
from kepler_servers.estimator.replies import failure_reply
from kepler_servers.estimator.request import (
    MAX_PER_SECOND,
    Command,
    InvalidRequestError,
    decode_strictly,
    read_watts_request,
)

METRICS = ["cpu_cycles", "cpu_instructions", "bpf_cpu_time_ms", "", "x" * 2000, "\ud800", "a\nb"]
numbers = st.integers(0, 10**6) | st.floats() | st.integers() | st.sampled_from([10**400, 1e16, 1e17, -0.0, 5e-324])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=5) | st.sampled_from(METRICS)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
names = mostly(
    st.lists(st.sampled_from(METRICS[:3]), min_size=1, max_size=3, unique=True),
    st.lists(st.sampled_from(METRICS)) | anything,
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Generate a random request for watts. Most rows have as many values as the request has metrics."""
    metrics = draw(names)
    width = len(metrics) if isinstance(metrics, list) else 1
    row = mostly(st.lists(numbers, min_size=width, max_size=width), anything)
    request: dict[str, Any] = {
        "metrics": metrics,
        "values": draw(mostly(st.lists(row, max_size=5), anything)),
        "output_type": draw(mostly(st.sampled_from(["AbsPower", "DynPower"]), st.just("abspower") | anything)),
        **draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "source": mostly(st.sampled_from(["rapl-sysfs", "intel_rapl", "acpi", ""]), anything),
                    "system_features": mostly(st.lists(st.text(max_size=3), max_size=3), anything),
                    "system_values": mostly(st.lists(st.text(max_size=3), max_size=3), anything),
                    "trainer_name": mostly(st.just("SGDRegressorTrainer"), anything),
                    "filter": mostly(st.sampled_from(["mae:5", ";", "features:a"]), anything),
                    "command": mostly(st.none(), st.just("status") | anything),
                    "more": anything,
                },
            )
        ),
    }
    for key in draw(mostly(st.just([]), st.lists(st.sampled_from(sorted(request)), max_size=1))):
        del request[key]
    return json.dumps(request, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def check_request(body: bytes) -> None:
    """Decode a request, and check the decoded request. If the request is invalid, check the error and the reply."""
    try:
        request = read_watts_request(body)
    except InvalidRequestError as error:
        check_one_line(error)
        json.loads(failure_reply(str(error), error.output_type, error.rows, ["package"], limit=4096).content)
        return
    if isinstance(request, Command):
        return
    assert request.values.shape[1] == len(request.metrics)
    assert ((request.values >= 0) & (request.values <= MAX_PER_SECOND)).all()
    assert not request.values[request.invalid].any()
    strict = decode_strictly(body)
    if isinstance(strict, type(request)):
        assert np.array_equal(strict.values, request.values)


def end_of_request(pieces: list[bytes]) -> int | str | None:
    """Return the end position of a request that arrives in pieces.

    Returns None if the request is incomplete, and a text if it is not a JSON object.
    """
    buffer = RequestBuffer()
    try:
        return next((end for piece in pieces if (end := buffer.feed(piece)) is not None), None)
    except NotAnObjectError:
        return "not an object"


def check(drawn: tuple[bytes, int]) -> None:
    """Check a request. Check that the end of the request is found in the same place if it arrives in pieces."""
    body, size = drawn
    check_request(body)
    assert end_of_request([body[at : at + size] for at in range(0, len(body), size)]) == end_of_request([body])


def test_requests_for_watts() -> None:
    bodies = requests() | damaged(requests()) | st.binary(max_size=50)
    fuzz(st.tuples(bodies, st.integers(1, 60)), check)
