"""Unusual and hostile answers of a Prometheus server to a query for samples."""

from __future__ import annotations

import json
from typing import Any

START, END = 1_700_000_000, 1_700_000_090
"""Start and end of the queried time range, in Unix seconds."""
LABELS = {"instance": "node-0"}
SAMPLES = [[START + 3 * n, str(10 * n)] for n in range(30)]
HUGE = b"1" + b"0" * 400


def encoded(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def answer(data: Any, **more: Any) -> bytes:
    return encoded({"status": "success", "data": data, **more})


def matrix(*series: Any, **more: Any) -> bytes:
    return answer({"resultType": "matrix", "result": series}, **more)


def values(samples: Any) -> bytes:
    """Return an answer with two series: a good series, and a series with the samples `samples`."""
    return matrix({"metric": {}, "values": SAMPLES}, {"metric": LABELS, "values": samples})


GOOD = matrix({"metric": LABELS, "values": SAMPLES})

REFUSED: dict[str, bytes] = {
    # answers that are not in the format of Prometheus
    "nothing": b"",
    "a web page": b"<html><body>Sign in</body></html>",
    "null": b"null",
    "a number": b"5",
    "a list": b"[]",
    "a cut answer": GOOD[:-20],
    "status is a number": encoded({"status": 1}),
    "an error": encoded({"status": "error", "errorType": "x" * 10_000, "error": "first line\nsecond" * 1000}),
    "invalid UTF-8 in a key": GOOD.replace(b'"status"', b'"st\xff"'),
    "deep nesting": b'{"status":"success","data":' + b"[" * 100_000,
    "deep nesting, closed": b'{"status":"success","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    # answers whose data is not a complete matrix
    "no data": encoded({"status": "success"}),
    "data is a list": answer([]),
    "data is text": answer("x"),
    "no type": answer({"result": []}),
    "no result": answer({"resultType": "matrix"}),
    "type is a number": answer({"resultType": 3, "result": []}),
    "invalid UTF-8 in the type": GOOD.replace(b"matrix", b"matri\xff"),
    "a scalar": answer({"resultType": "scalar", "result": [START, "1"]}),
    "a string": answer({"resultType": "string", "result": [START, "x"]}),
    "a vector": answer({"resultType": "vector", "result": [{"metric": LABELS, "value": [START, "1"]}]}),
    "an unknown type": answer({"resultType": "x" * 10_000, "result": []}),
    "result is a number": answer({"resultType": "matrix", "result": 7}),
    "result is an object": answer({"resultType": "matrix", "result": {"a": 1}}),
    "warnings": matrix(warnings=["a store did not answer"]),
    "warnings is text": matrix(warnings="x"),
    "a partial answer of VictoriaMetrics": matrix(isPartial=True),
    # answers with a malformed series
    "series is null": matrix(None),
    "series is text": matrix("x"),
    "series is a list": matrix([]),
    "no labels": matrix({"values": SAMPLES}),
    "labels are null": matrix({"metric": None, "values": SAMPLES}),
    "labels are a list": matrix({"metric": [], "values": SAMPLES}),
    "a label is a number": matrix({"metric": {"instance": 5}, "values": SAMPLES}),
    "a label is null": matrix({"metric": {"instance": None}, "values": SAMPLES}),
    "a long label": matrix({"metric": {"instance": "x" * 1_000_000}, "values": SAMPLES}),
    "invalid UTF-8 in a label": GOOD.replace(b"node-0", b"node-\xff"),
    "half a surrogate pair": GOOD.replace(b"node-0", b"\\ud800"),
    "a series occurs twice": matrix(*[{"metric": LABELS, "values": SAMPLES}] * 2),
    "neither values nor histograms": matrix({"metric": LABELS}),
    # answers with a malformed sample
    "values are null": values(None),
    "values are a number": values(12345),
    "values are text": values("[[1,2]]"),
    "values are an object": values({"a": [1, 2]}),
    "values are nested": values([SAMPLES]),
    "values are flat": values([START, "1"]),
    "a sample is null": values([None]),
    "a sample is short": values([[START]]),
    "a sample is long": values([[START, "1", "2"]]),
    "a value is a bracket": values([[START, "]["]]),
    "a value is empty": values([[START, ""]]),
    "a value is a word": values([[START, "many"]]),
    "a value is true": values([[START, True]]),
    "a value is a list": values([[START, ["1"]]]),
    "a value is a huge number": GOOD.replace(b'"10"', HUGE),
    "invalid UTF-8 in a value": GOOD.replace(b'"10"', b'"1\xff"'),
    # answers with a malformed timestamp, or with a timestamp outside of the queried time range
    "a timestamp is NaN": values([["NaN", "1"]]),
    "a timestamp is null": values([[None, "1"]]),
    "a timestamp is a word": values([["noon", "1"]]),
    "a timestamp is huge": values([[1e300, "1"]]),
    "a timestamp has 400 digits": GOOD.replace(b"[[1700000000", b"[[" + HUGE),
    "a timestamp is negative": values([[-5, "1"]]),
    "a timestamp is in milliseconds": values([[START * 1000, "1"]]),
    "a timestamp is earlier than the query": values([[START - 60, "1"]]),
    "a timestamp is later than the query": values([[END + 60, "1"]]),
}
"""Malformed or incomplete answers to a query from `START` to `END`. They must be refused. A key describes the fault."""

USED: dict[str, tuple[bytes, int]] = {
    "a good answer": (GOOD, 30),
    "unknown keys": (matrix({"metric": LABELS, "values": SAMPLES, "x": {}}, infos=["x"], stats={"a": 1}), 30),
    "no warnings": (matrix({"metric": LABELS, "values": SAMPLES}, warnings=None, isPartial=False), 30),
    "no series": (matrix(), 0),
    "null for no series": (answer({"resultType": "matrix", "result": None}), 0),
    "a series without samples": (values([]), 30),
    "native histograms": (matrix({"metric": LABELS, "histograms": [[START, {"count": "1"}]]}), 0),
    "numbers instead of text": (values([[at, float(text)] for at, text in SAMPLES]), 60),
    "timestamps as text": (values([[str(at), text] for at, text in SAMPLES]), 60),
    "NaN": (values([[at, "NaN"] for at, _ in SAMPLES]), 30),
    "infinity": (values([[at, "+Inf"] for at, _ in SAMPLES]), 30),
    "values of 400 digits": (values([[at, HUGE.decode()] for at, _ in SAMPLES]), 30),
    "values that no counter can hold": (values([[at, "1e300"] for at, _ in SAMPLES]), 60),
    "the order reversed": (values(SAMPLES[::-1]), 60),
    "repeated timestamps": (values([*SAMPLES, *SAMPLES]), 60),
    "white space": (json.dumps(json.loads(values(SAMPLES)), indent=3).encode(), 60),
}
"""Unusual answers that must be accepted, each with its number of finite samples. A key describes the answer."""
