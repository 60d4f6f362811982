"""Test that recordings are read from files, bytes and dicts, and that irregular samples are left out and counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.recording_json import DOCUMENT, ENCODED, SAMPLES, all_samples, one_series, plain_reading, samples_of

from kepler_core.recording.reader import read_recording


def test_files_bytes_and_dicts_give_the_same_samples(tmp_path: Path) -> None:
    plain, packed, misnamed = tmp_path / "r.json", tmp_path / "r.json.gz", tmp_path / "packed.json"
    plain.write_bytes(ENCODED)
    packed.write_bytes(gzip.compress(ENCODED))
    misnamed.write_bytes(gzip.compress(ENCODED))
    for source in (plain, str(plain), packed, misnamed, ENCODED, gzip.compress(ENCODED), DOCUMENT):
        assert all_samples(read_recording(source)) == SAMPLES


def test_the_digest_depends_on_the_unpacked_content_only(tmp_path: Path) -> None:
    plain, packed = tmp_path / "r.json", tmp_path / "r.json.gz"
    plain.write_bytes(ENCODED)
    packed.write_bytes(gzip.compress(ENCODED, mtime=5))
    digest = read_recording(plain).digest
    assert digest == read_recording(packed).digest == read_recording(ENCODED).digest
    assert digest != read_recording(ENCODED.replace(b"12.5", b"12.6")).digest


def test_the_name_is_that_of_the_file_unless_one_is_given(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(ENCODED)
    assert read_recording(path).name == str(path)
    assert read_recording(path, name="Monday").name == "Monday"
    assert read_recording(ENCODED, name="Monday").name == "Monday"


def test_a_response_of_the_prometheus_api_is_read() -> None:
    answer = {
        "status": "success",
        "data": {
            "resultType": "matrix",
            "result": [
                {"metric": {"__name__": "cpu", "id": "a"}, "values": [[1, "10"], [2, "12"]]},
                {"metric": {"__name__": "joules"}, "values": [[1, "5"]]},
                {"metric": {"__name__": "cpu", "id": "b"}, "values": [[2, "7"]]},
            ],
        },
    }
    recording = read_recording(json.dumps(answer).encode())
    assert all_samples(recording) == {
        "cpu": [
            ({"__name__": "cpu", "id": "a"}, [(1.0, 10.0), (2.0, 12.0)]),
            ({"__name__": "cpu", "id": "b"}, [(2.0, 7.0)]),
        ],
        "joules": [({"__name__": "joules"}, [(1.0, 5.0)])],
    }


def test_only_wanted_metrics_have_samples() -> None:
    recording = read_recording(ENCODED, wanted=lambda metric: metric == "joules")
    assert all_samples(recording) == {"joules": SAMPLES["joules"]}
    assert recording.other_metrics == ("cpu",)
    assert recording.n_samples == 2


def test_columns_are_read_only() -> None:
    metric = read_recording(ENCODED).metrics["cpu"]
    for column in (metric.timestamps, metric.values, metric.series):
        with pytest.raises(ValueError):
            column[0] = 5


def test_an_irregular_series_does_not_change_its_neighbours() -> None:
    # One series contains NaN, so the reader decodes it sample by sample. Some series have no samples.
    document: dict[str, Any] = {"m": []}
    for index in range(80):
        values = [[1_700_000_000 + 3 * at, f"{index * 1000 + at}.25"] for at in range(0 if index % 9 == 4 else 1500)]
        if index == 30:
            values[7][1] = "NaN"
        document["m"].append({"metric": {"id": str(index)}, "values": values})
    encoded = json.dumps(document).encode()
    assert len(encoded) > 2 * 2**20
    recording = read_recording(encoded)
    assert all_samples(recording) == plain_reading(encoded)[0]
    assert recording.metrics["m"].not_finite == 1
    assert recording.empty_series == {"m": 9}


@pytest.mark.parametrize(("value", "read"), [("1e300", 2.0**64), ("-3.7e19", -(2.0**64))])
def test_values_that_no_counter_holds_are_limited(value: str, read: float) -> None:
    metric = read_recording(one_series([1, "10"], [2, value], [3, "30"])).metrics["m"]
    assert metric.values.tolist() == [10, read, 30]
    assert metric.not_finite == 0


@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "-Inf", "Inf", "inf", "1e400", None])
def test_values_that_are_not_finite_are_left_out_and_counted(value: str | None) -> None:
    metric = read_recording(one_series([1, "10"], [2, value], [3, "30"])).metrics["m"]
    assert metric.timestamps.tolist() == [1, 3]
    assert metric.values.tolist() == [10, 30]
    assert metric.not_finite == 1


def test_the_staleness_marker_is_left_out() -> None:
    # Prometheus marks the end of a series with the NaN whose 64 bits are 0x7FF0000000000002.
    stale = float(np.array(0x7FF0000000000002, dtype=np.uint64).view(np.float64))
    metric = read_recording({"m": [{"metric": {}, "values": [[1, 10.0], [2, stale], [3, "30"]]}]}).metrics["m"]
    assert metric.values.tolist() == [10, 30]
    assert metric.not_finite == 1


def test_unsorted_samples_are_sorted_within_their_series() -> None:
    document = {
        "m": [
            {"metric": {"id": "a"}, "values": [[3, "30"], [1, "10"], [2, "20"]]},
            {"metric": {"id": "b"}, "values": [[2, "200"], [1, "100"]]},
        ]
    }
    assert samples_of(read_recording(document), "m") == [
        ({"id": "a"}, [(1, 10), (2, 20), (3, 30)]),
        ({"id": "b"}, [(1, 100), (2, 200)]),
    ]


def test_the_first_sample_of_a_repeated_timestamp_is_kept() -> None:
    metric = read_recording(one_series([1, "10"], [2, "20"], [2, "21"], [1, "11"], [3, "30"])).metrics["m"]
    assert metric.timestamps.tolist() == [1, 2, 3]
    assert metric.values.tolist() == [10, 20, 30]
    assert metric.repeated == 2


def test_equal_timestamps_of_two_series_are_not_repeated() -> None:
    assert read_recording(ENCODED).metrics["cpu"].repeated == 0


def test_empty_series_are_kept_and_counted() -> None:
    document = {
        "m": [{"metric": {"id": "a"}, "values": []}, {"metric": {"id": "b"}, "values": [[1, "2"]]}],
        "n": [],
    }
    recording = read_recording(document)
    assert all_samples(recording) == {"m": [({"id": "a"}, []), ({"id": "b"}, [(1, 2)])], "n": []}
    assert recording.empty_series == {"m": 1}
    assert recording.metrics["m"].lengths.tolist() == [0, 1]
