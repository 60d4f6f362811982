"""Tests of the parser of the text format in which exporters serve metrics."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.scrape.exposition import MAX_LABELS, ExpositionError, ScrapedSample, parse_exposition

TEXT = r"""# HELP kepler_node_cpu_watts Power consumption of cpu at node level in watts
# TYPE kepler_node_cpu_watts gauge
kepler_node_cpu_watts{node_name="vm-1",path="/sys/class/powercap/intel-rapl:0",zone="package"} 42.00276686294044
kepler_build_info{arch="amd64",branch="",goversion="go1.24.11",} 1
up 1 1757512961721
kepler_process_cpu_seconds_total{comm="a \"b\" \\ c,d}\n",pid="1"} 1.5e+09 # {trace_id="x"} 1.0
kepler_not_a_number{} NaN
kepler_limit +Inf
# EOF
"""


def test_samples_have_names_labels_and_values() -> None:
    samples = parse_exposition(TEXT.encode())
    assert [sample.metric for sample in samples] == [
        *("kepler_node_cpu_watts", "kepler_build_info", "up", "kepler_process_cpu_seconds_total"),
        *("kepler_not_a_number", "kepler_limit"),
    ]
    assert samples[0].labels == {"node_name": "vm-1", "path": "/sys/class/powercap/intel-rapl:0", "zone": "package"}
    assert samples[0].value == 42.00276686294044
    assert samples[1] == ScrapedSample(
        "kepler_build_info", {"arch": "amd64", "branch": "", "goversion": "go1.24.11"}, 1
    )
    assert samples[2] == ScrapedSample("up", {}, 1.0)
    assert samples[3].labels["comm"] == 'a "b" \\ c,d}\n'
    assert samples[3].value == 1.5e9
    assert math.isnan(samples[4].value)
    assert samples[5].value == math.inf


def test_only_wanted_metrics_are_returned() -> None:
    assert [sample.metric for sample in parse_exposition(TEXT.encode(), lambda metric: metric == "up")] == ["up"]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'a{x="1" 2', "is not a label"),
        (b'a{x="1"}', "is not a value"),
        (b"a one", "is not a number"),
        (b"a 1_000", "is not a number"),
        (b"a 1 2 3", "is not a value"),
        (b'a{x="1",x="2"} 1', "occurs twice"),
        (b'a{x="\\t"} 1', "is not an escape sequence"),
        (b"<html>", "does not begin with the name"),
        (b"\xff 1", "not UTF-8"),
        (b"a" * 300 + b" 1", "does not begin with the name"),
        (b'a{x="' + b"y" * 5000 + b'"} 1', "longer than 4096"),
        (b"a " + b"1" * 70_000, "longer than 65536"),
        (b"a{" + b",".join(b'l%d=""' % at for at in range(MAX_LABELS + 1)) + b"} 1", "more than 64 labels"),
    ],
)
def test_a_malformed_line_refuses_the_whole_text(line: bytes, problem: str) -> None:
    with pytest.raises(ExpositionError, match=problem):
        parse_exposition(b"up 1\n" + line + b"\n")


@given(st.binary(max_size=200))
def test_any_bytes_are_samples_or_an_error(content: bytes) -> None:
    try:
        samples = parse_exposition(content)
    except ExpositionError:
        return
    assert all(isinstance(sample.value, float) for sample in samples)


@given(st.dictionaries(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,9}", fullmatch=True), st.text(max_size=20), max_size=5))
def test_labels_of_any_text_are_read_back(labels: dict[str, str]) -> None:
    def escaped(text: str) -> str:
        return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    line = "m{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "} 1"
    try:
        (sample,) = parse_exposition(line.encode())
    except UnicodeEncodeError:
        return
    assert sample.labels == labels
