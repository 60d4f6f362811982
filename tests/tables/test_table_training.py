"""Tests that `extract` and `isolate` write tables, and that `train` can use these tables and users' own tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.command import kepler
from support.tables import HEADER, rows, write
from support.training import only_model, train

from kepler_core.simulate import Simulation
from kepler_core.simulate import write as write_recording

FEW_TREES = "{name: GradientBoostingRegressorTrainer, args: {n_estimators: 5}}"
PIPELINE = f"""
name: p
energy_sources: [rapl]
feature_groups: [CounterOnly]
abs_trainers: [{FEW_TREES}, LinearRegressionTrainer, KNeighborsRegressorTrainer]
dyn_trainers: [{FEW_TREES}, SGDRegressorTrainer]
validation: {{regimes: 2}}
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(PIPELINE)
    return path


def model_files(store: Path, output_type: str) -> dict[str, Any]:
    """Return the model files of a pipeline by path. Zip files are left out, because they contain the same files.

    In the metadata, the digest of the data and the metric schemas are removed, because they differ between a recording
    and a table.
    """
    files: dict[str, Any] = {}
    for path in (store / "p").rglob(f"{output_type}/*/*/*"):
        if path.name == "metadata.json":
            metadata = json.loads(path.read_text())
            files[str(path.relative_to(store))] = metadata
            del metadata["lineage"]["data"], metadata["lineage"]["schemas"]
        else:
            files[str(path.relative_to(store))] = path.read_bytes()
    return files


def extract(command: str, pipeline: Path, output: Path, *options: str | Path) -> Path:
    done = kepler(command, "--pipeline", pipeline, "--output", output, *options)
    assert done.returncode == 0, done.stderr
    return output


def check_same_models(recording: Path, pipeline: Path, tmp_path: Path, suffix: str, *settings: str) -> None:
    """Check that training from tables gives the same models as training from the recording.

    The tables are: a table of nodes with a table of containers, and a table of dynamic power."""
    data, from_recording = ["--input", recording, *settings], tmp_path / "recording"
    train(pipeline, *data, "--store", from_recording)
    node = extract("extract", pipeline, tmp_path / f"node{suffix}", *data)
    container = extract("extract", pipeline, tmp_path / f"container{suffix}", *data, "--level", "container")
    dynamic = extract("isolate", pipeline, tmp_path / f"dynamic{suffix}", *data, "--store", from_recording)
    both, isolated = tmp_path / "both", tmp_path / "isolated"
    report = train(pipeline, "--data", node, "--data", container, *settings, "--store", both)
    assert report["findings"] == []
    train(pipeline, "--data", dynamic, *settings, "--store", isolated)
    for output_type in ("AbsPower", "DynPower"):
        expected = model_files(from_recording, output_type)
        assert len(expected) > 8
        assert model_files(both, output_type) == expected
    assert model_files(isolated, "DynPower") == expected
    assert model_files(isolated, "AbsPower") == {}


@pytest.mark.parametrize(
    ("name", "suffix"), [("kepler_coremark.json", ".csv"), ("kepler_stressng.json.gz", ".parquet")]
)
def test_tables_of_a_recording_give_the_models_of_the_recording(
    name: str, suffix: str, recordings: Path, pipeline: Path, tmp_path: Path
) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    check_same_models(recordings / name, pipeline, tmp_path, suffix)


def test_tables_of_several_nodes_give_the_same_models_with_any_extractor_and_isolator(
    pipeline: Path, tmp_path: Path
) -> None:
    """Models from tables equal models from the recording, even with smoothed values and isolated background power.

    Tables of containers contain the node's CPU frequency.
    """
    recording = tmp_path / "r.json"
    write_recording(Simulation(containers=3, timestamps=90, nodes=3), str(recording))
    settings = (
        "--set", "feature_groups=[Full]", "--set", "extractor={name: smooth, args: {window: 3}}",
        "--set", "isolator={name: trainer, args: {background_hints: [pod-0]}}",
        "--set", "validation.scheme=nodes", "--set", "validation.folds=3",
    )  # fmt: skip
    check_same_models(recording, pipeline, tmp_path, ".csv", *settings)


def test_csv_on_standard_output(pipeline: Path, tmp_path: Path) -> None:
    recording = tmp_path / "r.json"
    write_recording(Simulation(containers=3, timestamps=60), str(recording))
    done = kepler("extract", "--pipeline", pipeline, "--input", recording, "--output", "-")
    header, *lines = done.stdout.splitlines()
    assert header == (
        "recording,node,timestamp,cache_miss,cpu_cycles,cpu_instructions,"
        "package_power,core_power,uncore_power,dram_power"
    )
    assert done.returncode == 0
    assert len(lines) > 50
    assert lines[0].startswith(f"{recording},")
    assert "Findings in the recordings:" in done.stderr
    dynamic = kepler("isolate", "--pipeline", pipeline, "--input", recording, "--output", "-").stdout.splitlines()[0]
    assert dynamic.startswith("recording,node,timestamp,container,container_name,cache_miss,")
    assert ",package_dynamic_power," in dynamic
    assert dynamic.endswith(",dram_background_power")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--output", "x.txt"], "x.txt: the name of a table must end in .csv or .parquet"),
        (["--output", "no/x.csv"], "there is no folder no"),
        (["--output", "folder.csv", "--input", "missing.json"], "cannot write folder.csv: it is a folder"),
        (["--output", "x.csv", "--pipeline", "default"], "choose one of the energy sources acpi, rapl-sysfs with --en"),
        (["--output", "x.csv", "--pipeline", "default", "--energy-source", "acpi"], "choose one of the feature groups"),
        (["--output", "x.csv", "--feature-group", "BPFOny"], "unknown feature group 'BPFOny'; did you mean BPFOnly?"),
        (["--output", "x.csv", "--energy-source", "rappl"], "did you mean rapl"),
    ],
)
def test_wrong_usage_of_extract(options: list[str], problem: str, pipeline: Path, tmp_path: Path) -> None:
    recording = tmp_path / "r.json"
    write_recording(Simulation(containers=2, timestamps=40), str(recording))
    (tmp_path / "folder.csv").mkdir()
    done = kepler("extract", "--pipeline", pipeline, "--input", recording, *options, cwd=tmp_path)
    assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "x.csv").exists()


def test_a_table_without_times_is_validated_on_whole_nodes(tmp_path: Path) -> None:
    """Validation holds out whole nodes, because rows of one node may be nearly equal. The report states this."""
    table = [[f"machine {row % 6}", *cells[1:]] for row, cells in enumerate(rows(60))]
    path = write(tmp_path / "t.csv", table, ("machine", "load", "size", "watts"))
    pipeline = tmp_path / "p.yaml"
    groups = "third_party: [load, size]\nfeature_groups: [ThirdParty]\n"
    pipeline.write_text(groups + "abs_trainers: [LinearRegressionTrainer]\n")
    options = ["--data", path, "--column", "platform=watts", "--column", "node=machine", "--store", tmp_path / "s"]
    model = only_model(train(pipeline, *options))
    assert (model["source"], model["feature_group"]) == ("acpi", "ThirdParty")
    assert model["held_out"] == "whole nodes, held out in 5 folds"
    assert model["mae"] < 0.1  # the power depends linearly on the load
    metadata = json.loads((tmp_path / "s/p/metadata.json").read_text())
    assert metadata["pipeline"]["validation"]["scheme"] == "nodes"
    assert "energy_sources" in str([plugin["namespace"] for plugin in metadata["plugins"]])
    done = kepler("train", pipeline, *options[:4], "--store", tmp_path / "s")
    assert done.returncode == 1
    assert "validation scheme 'nodes' needs at least two nodes" in done.stderr


def test_what_train_says_about_a_table(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", [[*row, "idle"] for row in rows(120)], (*HEADER, "phase"))
    pipeline = tmp_path / "p.yaml"
    pipeline.write_text("abs_trainers: [LinearRegressionTrainer]\ndyn_trainers: [LinearRegressionTrainer]\n")
    done = kepler("train", pipeline, "--data", path, "--store", tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert f"{path}: not used: phase" in done.stderr
    assert "the tables have no rows of containers (a column container): rapl-sysfs DynPower\n" in done.stdout
    for options, problem in (
        ((), "give either recordings (--input) or tables (--data)"),
        (("--data", path, "--input", path), "give either recordings (--input) or tables (--data)"),
        (("--input", path, "--column", "node=n"), "--column needs --data"),
        (("--data", path, "--vm-guest", "a=b"), "--vm-guest can be used with --input, not with --data"),
        (("--data", path, "--metric-prefix", "acme"), "--metric-prefix can be used with --input, not with --data"),
        (("--data", path, "--data", path), "the table is given twice"),
    ):
        done = kepler("train", pipeline, *options, "--store", tmp_path / "s")
        assert (done.returncode, problem in done.stderr) == (2, True), done.stderr
