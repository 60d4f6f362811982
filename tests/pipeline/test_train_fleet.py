"""Train all node types of many machines, and publish the models as one version of a pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.machine_metrics import added, kepler_cpu_info

from kepler_core.cli.main import cli
from kepler_core.cli.train import run
from kepler_core.pipeline.report import Report
from kepler_core.simulate import Simulation, write
from kepler_core.store import open_store
from kepler_core.store.models import read_models, read_node_types

SETTINGS = (
    "feature_groups=[CounterOnly]",
    "energy_sources=[acpi]",
    "abs_trainers=[LinearRegressionTrainer]",
    "dyn_trainers=[]",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a recording of seven nodes, descriptions of their machines, and a store with models."""
    folder = tmp_path_factory.mktemp("fleet")
    write(Simulation(nodes=7, containers=3, timestamps=60, node_spread=0.02, seed=4), str(folder / "fleet.json"))
    specs = {f"node-{number}": {"cores": 32, "chips": 2} for number in range(5)}
    specs |= {f"node-{number}": {"cores": 33, "chips": 2} for number in (5, 6)}
    (folder / "specs.json").write_text(json.dumps(specs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KEPLER_REPORT", "true")
        train(folder)
    return folder


def train(folder: Path, specs: str = "specs.json", recording: str = "fleet.json", store: str = "store") -> object:
    return run(
        "quickstart",
        (str(folder / recording),),
        str(folder / store),
        backend="threading",
        settings=SETTINGS,
        machine_specs=specs if specs == "metrics" else str(folder / specs),
    )


def test_one_version_has_the_models_of_all_node_types(folder: Path) -> None:
    store = open_store(str(folder / "store"))
    snapshot = store.snapshot("quickstart", 1)
    assert {model.node_type for model in read_models(snapshot)} == {0, 1}
    types = read_node_types(snapshot)
    assert {number: entry.spec["cores"] for number, entry in types.items()} == {0: 32, 1: 33}
    assert types[1].members == ("node-5", "node-6")
    assert {"nodes/0.json", "nodes/1.json", "report.html"} <= snapshot.names
    page = snapshot.read("report.html").decode()
    assert "Nodes compared with their twins" in page
    assert "node-6" in page


def test_metrics_that_describe_machines_give_the_same_types_as_a_file(folder: Path) -> None:
    content = json.loads((folder / "fleet.json").read_text())
    times = [time for time, _ in content["kepler_node_node_info"][0]["values"][:2]]
    machines = {f"node-{number}": 32 if number < 5 else 16 for number in range(7)}
    infos = [kepler_cpu_info(node, times, model="Intel Xeon Gold 6130", cores=n) for node, n in machines.items()]
    (folder / "described.json").write_text(json.dumps(added(content, *infos)))
    report = train(folder, "metrics", "described.json", "store-of-metrics")
    assert isinstance(report, Report)
    types = read_node_types(open_store(str(folder / "store-of-metrics")).snapshot("quickstart", 1))
    assert {number: entry.spec["cores"] for number, entry in types.items()} == {0: 32, 1: 16}
    assert types[1].members == ("node-5", "node-6")
    assert report.machine_notes == ["memory and frequency of all 7 nodes: not stated by any metric"]


def test_the_command_nodes_shows_the_stored_comparison(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["nodes", "quickstart", "-s", str(folder / "store"), "--json"])
    tables = json.loads(result.output)
    assert [(table["node_type"], len(table["nodes"])) for table in tables] == [(0, 5), (1, 2)]
    assert tables[0]["spread"] is not None
    assert tables[1]["spread"] is None
    assert all("at least 5" in node["reason"] for node in tables[1]["nodes"])
    text = CliRunner().invoke(cli, ["nodes", "quickstart", "-s", str(folder / "store")]).output
    assert "node type 1, platform of acpi: 2 nodes, not tested for outliers" in text


def test_a_training_of_one_type_keeps_models_and_nodes_of_other_types(folder: Path) -> None:
    specs = json.loads((folder / "specs.json").read_text())
    (folder / "other.json").write_text(json.dumps({key: {"cores": 48} for key in specs}))
    before = open_store(str(folder / "store")).snapshot("quickstart")
    train(folder, "other.json")
    after = open_store(str(folder / "store")).snapshot("quickstart")
    assert {model.node_type for model in read_models(after)} == {0, 1, 2}
    for name in ("nodes/0.json", "nodes/1.json", "samples/0.json.gz", "samples/1.json.gz"):
        assert after.read(name) == before.read(name)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nodes"], "give recordings with --input"),
        (["nodes", "quickstart"], "give recordings with --input"),
        (["nodes", "quickstart", "-s", "STORE", "--least", "3"], "--least needs recordings"),
        (
            ["train", "quickstart", "-i", "x", "-s", "STORE", "--machine-specs", "a", "--machine-id", "b"],
            "--machine-id",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str], problem: str, folder: Path) -> None:
    arguments = [str(folder / "store") if word == "STORE" else word for word in arguments]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code != 0
    assert problem in str(result.exception)
