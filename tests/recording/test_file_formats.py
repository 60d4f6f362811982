"""Test that recordings in common formats and encodings are read, and that other answers of Prometheus are rejected."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.exporter_documents import TIMES, Document, assert_same, machine, observed

from kepler_core.errors import RecordingError
from kepler_core.recording import check, observe, read_recording


def named_series(document: Document) -> list[dict[str, Any]]:
    """Return all series of a recording, with the metric's name in the label `__name__`."""
    return [
        {"metric": {"__name__": metric, **series["metric"]}, "values": series["values"]}
        for metric, all_series in document.items()
        for series in all_series
    ]


def answer(result: Any, kind: str = "matrix", **more: Any) -> dict[str, Any]:
    """Return a successful answer of Prometheus' HTTP API with the data `result`; `more` adds or replaces keys."""
    return {"status": "success", "data": {"resultType": kind, "result": result}, **more}


def lines(values: list[Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def exported(series: dict[str, Any]) -> dict[str, Any]:
    """Return a series in the format of VictoriaMetrics' exports."""
    return {
        "metric": series["metric"],
        "values": [float(value) for _, value in series["values"]],
        "timestamps": [round(1000 * at) for at, _ in series["values"]],
    }


def halves(series: dict[str, Any]) -> list[dict[str, Any]]:
    """Divide a series into two parts, which share one sample. Return both parts."""
    return [{**series, "values": series["values"][:21]}, {**series, "values": series["values"][20:]}]


FORMATS: dict[str, Callable[[Document], bytes]] = {
    "recording": lambda document: json.dumps(document).encode(),
    "answer": lambda document: json.dumps(answer(named_series(document), infos=["x"], warnings=[])).encode(),
    "answers in lines": lambda document: lines([answer([series]) for series in named_series(document)]),
    "answers in a list": lambda document: json.dumps([answer([series]) for series in named_series(document)]).encode(),
    "answers by metric": lambda document: json.dumps(
        {metric: answer(named_series({metric: series})) for metric, series in document.items()}
    ).encode(),
    "answers for two times": lambda document: lines(
        [answer([half]) for series in named_series(document) for half in halves(series)]
    ),
    "list of promtool": lambda document: json.dumps(named_series(document)).encode(),
    "indented list": lambda document: json.dumps(named_series(document), indent=2).encode(),
    "lists in lines": lambda document: lines([[series] for series in named_series(document)]),
    "VictoriaMetrics' export": lambda document: lines([exported(series) for series in named_series(document)]),
    "VictoriaMetrics' export in parts": lambda document: lines(
        [exported(half) for series in named_series(document) for half in halves(series)]
    ),
}
ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "UTF-8": lambda content: content,
    "UTF-8 with a byte order mark": lambda content: b"\xef\xbb\xbf" + content,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "UTF-16, big endian": lambda content: b"\xfe\xff" + content.decode().encode("utf-16-be"),
    "UTF-32": lambda content: content.decode().encode("utf-32"),
    "Windows line ends": lambda content: content.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("format_name", FORMATS)
def test_all_formats_give_the_same_observations(format_name: str) -> None:
    content = FORMATS[format_name](machine())
    expected = observed(machine())
    for source in (content, gzip.compress(content)):
        recording = read_recording(source, name="test")
        assert not recording.malformed_series
        observations = observe([recording])
        assert_same(observations, expected)
        assert not observations.counts.of("duplicates")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("format_name", ["recording", "answers in lines", "list of promtool"])
def test_all_encodings_are_read(format_name: str, encoding: str) -> None:
    content = ENCODINGS[encoding](FORMATS[format_name](machine()))
    for source in (content, gzip.compress(content)):
        assert_same(observe([read_recording(source, name="test")]), observed(machine()))


def test_one_exported_series_is_read() -> None:
    content = b'{"metric":{"__name__":"m"},"values":[1,null,"Infinity",4.5],"timestamps":[1000,2000,3000,4500]}'
    metric = read_recording(content).metrics["m"]
    assert (metric.timestamps.tolist(), metric.values.tolist()) == ([1, 4.5], [1, 4.5])
    assert metric.not_finite == 2


def rejection(content: Any) -> str:
    """Return the error of a rejected document, after a check that it is one line of fewer than 600 characters."""
    with pytest.raises(RecordingError) as caught:
        read_recording(content if isinstance(content, bytes) else json.dumps(content).encode(), name="Monday")
    message = str(caught.value)
    assert message.startswith("Monday: ")
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message


REJECTED: dict[str, tuple[Any, str]] = {
    "an error": ({"status": "error", "errorType": "execution", "error": "too\nmany"}, "execution: too many"),
    "an error of a proxy": ({"status": "error", "error": "x" * 10_000}, "the server answered with an error"),
    "a vector": (answer([{"metric": {"__name__": "m"}, "value": [1, "2"]}], "vector"), "instant query"),
    "a scalar": (answer([1, "2"], "scalar"), "instant query"),
    "a list of instant values": ([{"metric": {"__name__": "m"}, "value": [1, "2"]}] * 3, "instant query"),
    "instant values by metric": ({"m": [{"metric": {}, "value": [1, "2"]}]}, "instant query"),
    "warnings": (answer([], warnings=["a store did not answer"]), "a store did not answer"),
    "a partial answer": (answer([], isPartial=True), "incomplete"),
    "one partial answer of two": (lines([answer([]), answer([], isPartial=True)]), "incomplete"),
    "no names": ([{"metric": {"id": str(i)}, "values": [[1, "2"]]} for i in range(30)], "30 malformed series"),
    "histograms": ([{"metric": {"__name__": "m"}, "histograms": [[1, {}]]}], "native histograms"),
    "another result": (answer("x"), "expected"),
    "damaged data": ({"status": "success", "data": 5}, "malformed answer"),
    "a cut line": (lines([exported(series) for series in named_series(machine())])[:-300], "line 17 is not JSON"),
    "damaged UTF-16": (b"\xff\xfe{\x00\x00\xd8", "damaged UTF-16"),
    "values without their times": (
        b'{"metric":{"__name__":"m"},"values":[1,2],"timestamps":[1000]}', "2 values, but 1 timestamps"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REJECTED)
def test_a_document_without_a_whole_recording_is_rejected(case: str) -> None:
    content, words = REJECTED[case]
    assert words in rejection(content)


def test_a_malformed_series_is_a_finding_with_its_place() -> None:
    document: Any = machine()
    document["kepler_container_cpu_instructions_total"].append(None)
    document["kepler_node_gpu_joules_total"] = None
    expected = observed(machine())
    assert_same(observed(document), expected)
    found = {f.where: f for f in check(read_recording(document)).findings if f.kind == "malformed_series"}
    assert found.keys() == {"kepler_container_cpu_instructions_total", "kepler_node_gpu_joules_total"}
    assert all(finding.count == 1 and finding.example for finding in found.values())


@pytest.mark.parametrize("values", [None, 5, [[1]], [[1e12, "1"]]])
def test_power_of_which_one_socket_is_malformed_is_unknown(values: Any) -> None:
    document: Any = machine()
    document["kepler_node_package_joules_total"][1]["values"] = values
    observations = observed(document)
    assert ("rapl-sysfs", "package") not in {
        key for key, watts in observations.power.items() if np.isfinite(watts).any()
    }
    expected = observed(machine())
    for key in (("rapl-sysfs", "dram"), ("acpi", "platform")):
        np.testing.assert_array_equal(observations.power[key], expected.power[key])
    assert observations.counts.of("malformed_series") == {"kepler_node_package_joules_total": 1}
    assert len(observations.sample_time) == len(TIMES)
