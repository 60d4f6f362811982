"""Test the option `--metric-prefix`, for exporters whose metric names do not begin with "kepler"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler

from kepler_core.errors import UsageError
from kepler_core.pipeline.observing import read_known
from kepler_core.prometheus import select_metrics
from kepler_core.recording import observe
from kepler_core.recording.csv_files import write_metrics
from kepler_core.recording.schemas import is_used_metric
from kepler_core.simulate import Simulation, recording

CONTENT = recording(Simulation(containers=2, timestamps=60))
RENAMED = {name.replace("kepler_", "acme_", 1): series for name, series in CONTENT.items()}


def write(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_the_prefix_makes_metrics_known() -> None:
    assert is_used_metric("acme_container_cpu_cycles_total", "acme")
    assert is_used_metric("acme_container_cpu_cycles_total", "acme_")
    assert not is_used_metric("acme_container_cpu_cycles_total")
    assert not is_used_metric("kepler_container_cpu_cycles_total", "acme")
    assert not is_used_metric("acmecontainer_cpu_cycles_total", "acme")
    with pytest.raises(UsageError, match=r"--metric-prefix: .*'a b' cannot begin the name of a metric"):
        is_used_metric("kepler_container_cpu_cycles_total", "a b")


def test_the_metrics_of_the_prefix_are_selected_for_a_query() -> None:
    names = [*CONTENT, *RENAMED]
    assert {selection.metric for selection in select_metrics(names)} == set(CONTENT)
    assert {selection.metric for selection in select_metrics(names, metric_prefix="acme")} == set(RENAMED)


def test_observations_do_not_depend_on_the_prefix(tmp_path: Path) -> None:
    plain = observe([read_known(write(tmp_path / "a.json", CONTENT), name="r")])
    renamed = observe([read_known(write(tmp_path / "b.json", RENAMED), name="r", metric_prefix="acme")])
    assert renamed.features == plain.features
    for feature, values in plain.node_features.items():
        assert renamed.node_features[feature].tobytes() == values.tobytes()
    for key, watts in plain.power.items():
        assert renamed.power[key].tobytes() == watts.tobytes()


def test_validate_and_extract_with_a_prefix(tmp_path: Path) -> None:
    path = write(tmp_path / "r.json", RENAMED)
    done = kepler("validate", path)
    assert done.returncode == 1
    assert "no metric that an installed metric schema knows" in done.stderr
    done = kepler("validate", path, "--metric-prefix", "acme", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["metrics"]) == set(RENAMED)
    assert "acme_node_platform_joules_total" in report["missing_sources"]["hmc"]
    done = kepler("validate", write(tmp_path / "k.json", CONTENT), "--metric-prefix", "acme")
    assert "kepler-0.7, node_exporter) with the prefix 'acme'" in done.stderr
    options = ("--energy-source", "rapl", "--feature-group", "Full", "--output", "-")
    renamed = kepler("extract", "--input", path, "--metric-prefix", "acme", *options).stdout
    write(path, CONTENT)
    assert renamed == kepler("extract", "--input", path, *options).stdout
    assert len(renamed.splitlines()) > 50


def test_a_csv_file_for_each_metric(tmp_path: Path) -> None:
    content = {
        "a_total": [
            {"metric": {"__name__": "a_total", "x": "1,2", "timestamp": "t"}, "values": [[1, "2"], [2.5, "0.1"]]},
            {"metric": {"y": "z"}, "values": [[1, "NaN"], [3, "1e18"]]},
        ],
        "../b/c": [{"metric": {}, "values": [[1, "5"]]}],
    }
    paths = write_metrics(read_known(content, ["a_total", "../b/c"]), tmp_path / "csv")
    assert [path.name for path in paths] == ["..%2Fb%2Fc.csv", "a_total.csv"]
    assert {path.parent for path in paths} == {tmp_path / "csv"}
    assert paths[1].read_text() == (
        'timestamp,label_timestamp,x,y,a_total\n1,t,"1,2",,2\n2.5,t,"1,2",,0.1\n3,,,z,1e+18\n'
    )
    assert paths[0].read_text() == "timestamp,../b/c\n1,5\n"
