"""Test recordings in Parquet: they give the same observations as JSON, are read in parts, and may have any content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kepler_core.cli.main import cli
from kepler_core.errors import KeplerError, RecordingError, UsageError
from kepler_core.parquet import RecordingWriter, open_parts, write_recording
from kepler_core.parquet.json_export import write_json
from kepler_core.parquet.layout import MARKER, folder_of
from kepler_core.parquet.writing import write_one_file
from kepler_core.recording import Observations, Recording, observe, read_recording
from kepler_core.simulate import Simulation, recording

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

Document = dict[str, list[dict[str, Any]]]
MACHINES = 6


def document(nodes: int = MACHINES, timestamps: int = 60) -> Document:
    """Return a recording whose metrics and series are in the order in which Parquet files contain them."""
    content: Document = msgspec.json.decode(
        msgspec.json.encode(recording(Simulation(nodes=nodes, containers=2, timestamps=timestamps, churn=0.0)))
    )
    for series in content.values():
        for one in series:
            offset = 0.001 * int(one["metric"]["instance"].removeprefix("node-"))
            one["values"] = [[round(time + offset, 3), value] for time, value in one["values"]]

    def key(one: dict[str, Any]) -> tuple[str, str]:
        return one["metric"]["instance"], msgspec.json.encode(one["metric"], order="sorted").decode()

    return {metric: sorted(content[metric], key=key) for metric in sorted(content)}


def to_parquet(source: Recording, folder: Path, mark: str = "a") -> Path:
    with RecordingWriter(folder, mark) as writer:
        write_recording(source, writer)
    return folder


def same(observations: Observations, expected: Observations) -> None:
    for column in ("sample_stream", "sample_time", "row_sample", "row_container"):
        np.testing.assert_array_equal(getattr(observations, column), getattr(expected, column), err_msg=column)
    assert [stream.node for stream in observations.streams] == [stream.node for stream in expected.streams]
    assert observations.containers == expected.containers
    for columns in ("container_features", "node_features", "power"):
        values, others = getattr(observations, columns), getattr(expected, columns)
        assert values.keys() == others.keys()
        for key in others:
            np.testing.assert_array_equal(values[key], others[key], err_msg=f"{columns} {key}")
    assert observations.counts.as_dict() == expected.counts.as_dict()


@pytest.mark.parametrize("form", ["folder", "one file"])
@pytest.mark.parametrize("machines", [MACHINES, 2, 1])
def test_parquet_gives_the_observations_of_json(tmp_path: Path, form: str, machines: int) -> None:
    source = read_recording(document())
    path = tmp_path / "r.parquet"
    if form == "folder":
        to_parquet(source, path)
    else:
        write_one_file(iter([source]), path)
    parts = open_parts(path, part_samples=machines * source.n_samples // MACHINES)
    assert len(list(parts.read())) == MACHINES // machines
    assert parts.sample_counts == source.sample_counts
    same(observe([parts]), observe([source]))


def test_guests_are_not_joined_with_hosts_in_other_parts(tmp_path: Path) -> None:
    source = read_recording(document())
    path = to_parquet(source, tmp_path / "recording.parquet")
    parts = open_parts(path, part_samples=source.n_samples // 2)
    with pytest.raises(RecordingError, match=r"recording\.parquet.* in 2 parts; convert it to JSON"):
        observe([parts], use_vm_metrics=True, vm_guests={"node-0": "vm"})


def test_only_wanted_metrics_are_read(tmp_path: Path) -> None:
    path = to_parquet(read_recording(document()), tmp_path / "r.parquet")
    damaged = next((path / folder_of("kepler_node_core_joules_total", "2023-11-14")).iterdir())
    damaged.write_bytes(b"PAR1 this is not read")
    parts = open_parts(path, wanted=lambda metric: metric.startswith("kepler_node_package"))
    (part,) = parts.read()
    assert list(part.metrics) == ["kepler_node_package_joules_total"]
    assert "kepler_node_core_joules_total" in parts.other_metrics
    with pytest.raises(RecordingError, match="not a Parquet file"):
        open_parts(path)


def test_samples_of_two_days_are_in_two_folders(tmp_path: Path) -> None:
    times = [[86_400.0 * 20_000 + 3600 * hour, str(hour)] for hour in range(30)]
    path = to_parquet(read_recording({"m": [{"metric": {"instance": "a"}, "values": times}]}), tmp_path / "r.parquet")
    assert sorted(p.name for p in (path / "metric=m").iterdir()) == ["day=2024-10-04", "day=2024-10-05"]
    (part,) = open_parts(path).read()
    np.testing.assert_array_equal(part.metrics["m"].timestamps, [time for time, _ in times])
    np.testing.assert_array_equal(part.metrics["m"].values, np.arange(30))


def test_samples_can_be_added_and_a_repeated_writer_replaces_its_files(tmp_path: Path) -> None:
    whole = document()
    early, late = (
        {
            metric: [{**one, "values": one["values"][span]} for one in series]
            for metric, series in whole.items()
        }
        for span in (slice(0, 30), slice(30, None))
    )  # fmt: skip
    path = tmp_path / "r.parquet"
    to_parquet(read_recording(early), path, "first")
    n_files = len(list(path.rglob("*.parquet")))
    to_parquet(read_recording(early), path, "first")
    assert len(list(path.rglob("*.parquet"))) == n_files
    to_parquet(read_recording(late), path, "second")
    assert len(list(path.rglob("*.parquet"))) == 2 * n_files
    same(observe([open_parts(path)]), observe([read_recording(whole)]))


def test_a_sample_at_the_border_of_two_queries_is_written_once(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "r.parquet", "q") as writer:
        writer.write("m", {"a": "1"}, np.array([1.0, 2.0]), np.array([10.0, 20.0]))
        writer.write("m", {"a": "1"}, np.array([2.0, 3.0]), np.array([20.0, 30.0]))
    (part,) = open_parts(tmp_path / "r.parquet").read()
    np.testing.assert_array_equal(part.metrics["m"].values, [10.0, 20.0, 30.0])
    assert part.metrics["m"].repeated == 0


@given(st.data())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_json_that_went_through_parquet_is_unchanged(tmp_path: Path, data: st.DataObject) -> None:
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
    times = st.lists(st.integers(0, 4 * 10**12), min_size=1, max_size=5, unique=True).map(sorted)
    metrics = data.draw(st.dictionaries(names, st.lists(st.dictionaries(names, names), min_size=1, max_size=3,
                                                        unique_by=lambda labels: tuple(sorted(labels.items()))),
                                        min_size=1, max_size=3))  # fmt: skip
    content = {
        metric: [
            {
                "metric": labels,
                "values": [[time / 1000, repr(data.draw(st.floats(-(2.0**64), 2.0**64)))] for time in data.draw(times)],
            }
            for labels in series
        ]
        for metric, series in metrics.items()
    }
    source = read_recording(content)
    path = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
    output = path.with_suffix(".json")
    write_json(str(to_parquet(source, path)), output, part_samples=2)
    back = read_recording(output)
    assert back.metrics.keys() == source.metrics.keys()
    for name, metric in source.metrics.items():
        assert contents(back.metrics[name]) == contents(metric)


def contents(metric: Any) -> dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]:
    result = {}
    for series, labels in enumerate(metric.labels):
        span = metric.span(series)
        samples = zip(metric.timestamps[span].tolist(), metric.values[span].tolist(), strict=True)
        result[tuple(sorted(labels.items()))] = list(samples)
    return result


def test_exporters_of_one_machine_are_in_one_part(tmp_path: Path) -> None:
    values = [[1.7e9 + 5 * at, str(at)] for at in range(30)]
    content = {
        "kepler_node_cpu_joules_total": [
            {"metric": {"instance": f"10.0.0.{n}:28282", "zone": "package", "node_name": f"n{n}"}, "values": values}
            for n in range(4)
        ],
        "node_cpu_seconds_total": [
            {"metric": {"instance": f"10.0.0.{n}:9100", "cpu": "0", "mode": "user"}, "values": values} for n in range(4)
        ],
    }
    path = to_parquet(read_recording(content), tmp_path / "r.parquet")
    for part in open_parts(path, part_samples=1).read():
        hosts = {labels["instance"].split(":")[0] for m in part.metrics.values() for labels in m.labels}
        assert len(hosts) == 1
        assert len(part.metrics) == 2


@given(st.binary(max_size=300), st.integers(0, 20_000), st.booleans())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_an_error_of_the_recording(tmp_path: Path, noise: bytes, at: int, cut: bool) -> None:
    good = tmp_path / "good.parquet"
    if not good.exists():
        write_one_file(iter([read_recording(document(2, 30))]), good)
    content = good.read_bytes()
    at = min(at, len(content))
    path = tmp_path / "bad.parquet"
    path.write_bytes(content[:at] + noise + (b"" if cut else content[at + len(noise) :]))
    try:
        list(open_parts(path).read())
    except KeplerError as error:
        text = str(error)
        if not text.startswith(str(path)) or "\n" in text:
            raise AssertionError(text) from error


BAD_TABLES = {
    "no column value": ({"labels": ["{}"], "timestamp": [1]}, "the column value is missing"),
    "times are texts": ({"labels": ["{}"], "timestamp": ["x"], "value": [1.0]}, "the column timestamp has the type"),
    "labels are no JSON": ({"labels": ["{"], "timestamp": None, "value": [1.0]}, "labels '{'"),
    "labels are null": ({"labels": [None], "timestamp": None, "value": [1.0]}, "a row without labels"),
    "no metric": ({"labels": ["{}"], "timestamp": None, "value": [1.0]}, "neither a column metric nor a folder"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_other_tables_are_rejected(tmp_path: Path, name: str) -> None:
    columns, problem = BAD_TABLES[name]
    if columns["timestamp"] is None:
        columns = columns | {"timestamp": pa.array([1]).cast(pa.timestamp("us", "UTC"))}
    if name != "no metric":
        columns = columns | {"metric": ["m"]}
    columns["labels"] = pa.array(columns["labels"], pa.string())
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(RecordingError, match=problem):
        list(open_parts(path).read())


def test_versions_and_folders_that_are_no_recordings_are_rejected(tmp_path: Path) -> None:
    path = to_parquet(read_recording(document(1, 30)), tmp_path / "r.parquet")
    (path / MARKER).write_text(json.dumps({"format": "kepler-core recording", "version": 2}))
    with pytest.raises(RecordingError, match="version 2 of the Parquet schema; this Kepler Core reads version 1"):
        open_parts(path)
    (path / MARKER).unlink()
    with pytest.raises(RecordingError, match="no recording: the folder has no file"):
        open_parts(path)
    with pytest.raises(UsageError, match="folder with other files"):
        RecordingWriter(path, "a")
    with pytest.raises(RecordingError, match="No such file"):
        open_parts(tmp_path / "nothing.parquet")


@pytest.mark.parametrize("reader", ["duckdb", "polars"])
@pytest.mark.parametrize("form", ["folder", "one file"])
def test_other_programs_read_the_files_as_they_are(tmp_path: Path, reader: str, form: str) -> None:
    source = read_recording(document())
    path = tmp_path / "r.parquet"
    if form == "folder":
        to_parquet(source, path)
    else:
        write_one_file(iter([source]), path)
    files = f"{path}/**/*.parquet" if form == "folder" else str(path)
    metric = source.metrics["kepler_node_package_joules_total"]
    of_node = [series for series, labels in enumerate(metric.labels) if labels["instance"] == "node-3"]
    values = metric.values[np.isin(metric.series, of_node)]
    expected = (len(values), float(values.max()), metric.timestamps.min())
    if reader == "duckdb":
        duckdb = pytest.importorskip("duckdb")
        found = duckdb.execute(
            f"SELECT count(*), max(value) FROM read_parquet('{files}', hive_partitioning=true) "
            "WHERE metric = 'kepler_node_package_joules_total' AND instance = 'node-3' "
            "AND json_extract_string(labels, '$.source') = 'rapl-sysfs'"
        ).fetchone()
        first = duckdb.execute(f"SELECT min(epoch(timestamp)) FROM read_parquet('{files}')").fetchone()[0]
    else:
        pl = pytest.importorskip("polars")
        table = pl.scan_parquet(files, hive_partitioning=form == "folder")
        rows = table.filter(
            (pl.col("metric").cast(pl.String) == "kepler_node_package_joules_total")
            & (pl.col("instance").cast(pl.String) == "node-3")
        ).collect()
        found = (len(rows), rows["value"].max())
        first = table.select(pl.col("timestamp").min()).collect()["timestamp"].dt.epoch("us")[0] / 1e6
    assert found == expected[:2]
    assert first == min(float(m.timestamps.min()) for m in source.metrics.values())


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, KeplerError):
        return 2, str(result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.return_value if isinstance(result.return_value, int) else result.exit_code, result.output


def test_commands_convert_and_read_parquet(tmp_path: Path) -> None:
    source = tmp_path / "r.json"
    source.write_bytes(msgspec.json.encode(document()))
    folder, back = tmp_path / "r.parquet", tmp_path / "back.json.gz"
    n_samples = sum(read_recording(source).sample_counts.values())
    assert run("convert", source, folder) == (0, f"{folder}: {n_samples} samples\n")
    assert run("convert", folder, back) == (0, f"{back}: {n_samples} samples\n")
    reports = [json.loads(run("validate", "--json", path)[1]) for path in (source, folder, back)]
    for report in reports:
        del report["recording"], report["digest"]
    assert reports[0] == reports[1] == reports[2]
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, table in zip((source, folder), tables, strict=True):
        code, output = run(
            "extract", "-i", path, "-o", table, "--energy-source", "rapl-sysfs", "--feature-group", "BPFOnly"
        )
        assert code == 0, output
    assert tables[0].read_text().replace(str(source), str(folder)) == tables[1].read_text()
    code, problem = run("convert", source, folder)
    assert code != 0
    assert "exists already" in problem
