"""Node types from metrics that describe machines (`--machine-specs metrics`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import kepler
from support.machine_metrics import Recorded, added, kepler_cpu_info, node_exporter_info, series

from kepler_core.cli.inputs import read_machine_specs
from kepler_core.cli.main import cli
from kepler_core.errors import UsageError
from kepler_core.machine import MachineSpec, machine_spec_from
from kepler_core.pipeline.machine_groups import groups_from_metrics, machine_groups
from kepler_core.pipeline.recorded_machines import DescribedNodes, read_machines
from kepler_core.recording import observe, read_recording
from kepler_core.recording.machine_facts import described
from kepler_core.recording.observations import Stream
from kepler_core.recording.schemas import is_used_metric
from kepler_core.simulate import START, Simulation, recording

TIMES = (START, START + 60)
GIB = 2**30
GOLD, PLATINUM = "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", "Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"


def written(folder: Path, content: Recorded, name: str = "a.json") -> str:
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


def of_nodes(path: str, *nodes: str) -> DescribedNodes:
    return read_machines([path]).of_streams([Stream(path, node) for node in nodes])


def spec_of(path: str, node: str) -> MachineSpec:
    return of_nodes(path, node).specs[Stream(path, node)]


def fleet() -> Recorded:
    """Return a simulated recording of five nodes with metrics about their machines; Kepler has the port 9102."""
    content = recording(Simulation(nodes=5, containers=2, timestamps=30, accelerator=False))
    parts = [content]
    for number in range(5):
        node, big = f"node-{number}", number in (1, 3, 4)
        parts += [
            kepler_cpu_info(f"{node}:9102", TIMES, model=PLATINUM if big else GOLD, cores=32 if big else 16),
            node_exporter_info(f"{node}:9100", TIMES, memory=(187.6 if big else 93.9) * GIB, hertz=3.74e9),
        ]
    for metric, of_metric in content.items():
        if metric.startswith("kepler_"):
            for one in of_metric:
                one["metric"]["instance"] += ":9102"
    return added(*parts)


def test_metrics_give_the_same_groups_as_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, fleet())
    observations = observe([read_recording(path, wanted=is_used_metric)])
    big = MachineSpec("intel_xeon_platinum_8259cl", 32, 2, 187, 3700, "genuineintel", 2)
    small = MachineSpec("intel_xeon_gold_6130", 16, 2, 93, 3700, "genuineintel", 2)
    of_file = machine_groups(observations, {f"node-{n}": big if n in (1, 3, 4) else small for n in range(5)})
    machines = read_machines([path])
    of_metrics, notes = groups_from_metrics(observations, machines)
    assert [group.machine for group in of_metrics] == [group.machine for group in of_file]
    assert [group.observations.streams for group in of_metrics] == [group.observations.streams for group in of_file]
    assert [len(group.observations.streams) for group in of_metrics] == [3, 2]
    assert notes == ()
    assert machines.most_cores() == 32


def test_a_recording_in_parquet_gives_the_same_descriptions(tmp_path: Path) -> None:
    path, folder = written(tmp_path, fleet()), str(tmp_path / "a.parquet")
    assert kepler("convert", path, folder).returncode == 0
    nodes = [f"node-{number}:9102" for number in range(5)]
    of_json, of_parquet = of_nodes(path, *nodes), of_nodes(folder, *nodes)
    assert list(of_json.specs.values()) == list(of_parquet.specs.values())
    assert len(of_json.specs) == 5


def test_what_no_metric_states_is_named(tmp_path: Path) -> None:
    known = kepler_cpu_info("a", TIMES, model=GOLD, cores=4)
    content = added(
        known, node_exporter_info("a", TIMES, memory=8 * GIB), node_exporter_info("b", TIMES, memory=9 * GIB)
    )
    result = of_nodes(written(tmp_path, content), "a", "b")
    assert "frequency of all 2 nodes: not stated by any metric" in result.notes
    assert "processor and cores and chips of 1 node (b): not stated by any metric" in result.notes
    assert any(note.startswith("processor of 1 node (b) not known: the nodes are grouped") for note in result.notes)


@pytest.mark.parametrize(
    ("content", "attribute", "problem"),
    [
        (
            added(*(kepler_cpu_info("a", TIMES, model=model, cores=4) for model in (GOLD, PLATINUM))),
            "processor",
            f"contradiction: kepler_node_cpu_info states '{GOLD}', but kepler_node_cpu_info states '{PLATINUM}'",
        ),
        (
            added(
                kepler_cpu_info("a", TIMES, model=GOLD, cores=4),
                {"node_cpu_info": [series("node_cpu_info", TIMES, instance="a", cpu="0", package="0", core="0")]},
            ),
            "cores",
            "contradiction: kepler_node_cpu_info states 4, but node_cpu_info states 1",
        ),
        (node_exporter_info("a", TIMES, memory=-5), "memory", "states -4.65661e-09 GiB, which is impossible"),
        (node_exporter_info("a", TIMES, memory=1e30), "memory", "which is impossible"),
        (node_exporter_info("a", TIMES, hertz=1), "frequency", "states 0 MHz, which is impossible"),
        (node_exporter_info("a", TIMES, hertz=1e15), "frequency", "which is impossible"),
        (kepler_cpu_info("a", TIMES, model="QEMU Virtual CPU", cores=4), "processor", "which names none"),
        (kepler_cpu_info("a", TIMES, model=GOLD, cores=4, chips=4), "chips", "a socket for each of the 4 CPUs"),
        (
            {"machine_cpu_cores": [series("machine_cpu_cores", TIMES, 8, instance="a"),
                                   series("machine_cpu_cores", TIMES, 12, instance="a")]},
            "cores",
            "contradiction: machine_cpu_cores states 8, but machine_cpu_cores states 12",
        ),
    ],
)  # fmt: skip
def test_wrong_and_contradictory_values_are_named_and_not_used(
    content: Recorded, attribute: str, problem: str, tmp_path: Path
) -> None:
    # the memory of another exporter makes the machine known
    content = added(
        content, {"machine_cpu_physical_cores": [series("machine_cpu_physical_cores", TIMES, 2, instance="a")]}
    )
    content = added(
        content, {"kepler_node_info": [series("kepler_node_info", TIMES, instance="a", cpu_architecture="Zen")]}
    )
    result = of_nodes(written(tmp_path, content), "a")
    (spec,) = result.specs.values()
    assert getattr(spec, attribute) is None
    assert any(attribute in note and problem in note for note in result.notes), result.notes


def test_only_the_microarchitecture_may_be_known(tmp_path: Path) -> None:
    info = {
        "kepler_node_node_info": [series("kepler_node_node_info", TIMES, instance="a", cpu_architecture="Broadwell")]
    }
    result = of_nodes(written(tmp_path, info), "a")
    assert [spec.processor for spec in result.specs.values()] == ["broadwell"]
    assert "processor of 1 node (a): only its microarchitecture is stated" in result.notes


def test_machines_with_the_same_address_are_described_by_their_other_labels(tmp_path: Path) -> None:
    content = added(
        kepler_cpu_info("10.0.0.5:9102", TIMES, model=GOLD, cores=4, cluster="east"),
        kepler_cpu_info("10.0.0.5:9102", TIMES, model=PLATINUM, cores=8, cluster="west"),
    )
    path = written(tmp_path, content)
    assert spec_of(path, "10.0.0.5:9102 (cluster=east)").cores == 4
    assert spec_of(path, "10.0.0.5:9102 (cluster=west)").processor == "intel_xeon_platinum_8259cl"
    assert not of_nodes(path, "10.0.0.5:9102 (cluster=north)").specs
    assert any("contradiction" in note for note in of_nodes(path, "10.0.0.5:9102").notes)


def test_an_alias_label_joins_exporters_with_different_addresses(tmp_path: Path) -> None:
    memory = series("node_memory_MemTotal_bytes", TIMES, 64 * GIB, instance="10.1.1.1:9100", nodename="n1")
    content = added(
        kepler_cpu_info("10.0.0.5:28282", TIMES, model=GOLD, cores=4, node_name="n1"),
        {"node_memory_MemTotal_bytes": [memory]},
    )
    path = written(tmp_path, content)
    assert spec_of(path, "10.0.0.5:28282").memory == 64
    assert spec_of(path, "n1").cores == 4


def test_slightly_different_memory_is_no_other_type(tmp_path: Path) -> None:
    sizes = {"a": 376.9, "b": 377.1, "c": 377.2, "d": 500}
    content = added(*(node_exporter_info(node, TIMES, memory=size * GIB) for node, size in sizes.items()))
    result = of_nodes(written(tmp_path, content), *sizes)
    assert [spec.memory for spec in result.specs.values()] == [377, 377, 377, 500]
    assert any(
        note.startswith("memory of 3 nodes with no known attribute: 376 and 377 GiB count as 377 GiB")
        for note in result.notes
    )


def test_other_products_of_a_type_are_named(tmp_path: Path) -> None:
    content = added(
        node_exporter_info("a", TIMES, memory=64 * GIB, product="PowerEdge R740"),
        node_exporter_info("b", TIMES, memory=64 * GIB, product="PowerEdge C6420"),
    )
    notes = of_nodes(written(tmp_path, content), "a", "b").notes
    assert any("'PowerEdge C6420' (1 node), 'PowerEdge R740' (1 node)" in note for note in notes)


@pytest.mark.parametrize(("node", "cores"), [("a", 4), ("localhost:9102", None)])
def test_another_recording_of_a_node_adds_what_is_missing(node: str, cores: int | None, tmp_path: Path) -> None:
    first = written(tmp_path, node_exporter_info(node, TIMES, memory=64 * GIB), "first.json")
    second = written(tmp_path, kepler_cpu_info(node, TIMES, model=GOLD, cores=4), "second.json")
    stream = Stream(first, node)
    assert read_machines([first, second]).of_streams([stream]).specs[stream].cores == cores


def test_a_node_that_differs_from_its_twins_only_in_what_is_not_known_is_named(tmp_path: Path) -> None:
    content = added(
        *(kepler_cpu_info(node, TIMES, model=GOLD, cores=8) for node in "abc"),
        *(node_exporter_info(node, TIMES, memory=64 * GIB) for node in "ab"),
    )
    result = of_nodes(written(tmp_path, content), "a", "b", "c")
    assert len({str(spec.identity) for spec in result.specs.values()}) == 2
    expected = "1 node (c) with processor intel_xeon_gold_6130, cores 8, chips 2: a separate node type, because memory"
    assert any(note.startswith(expected) for note in result.notes), result.notes


def test_recordings_without_any_description_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"up": [series("up", TIMES, instance="a")]})
    with pytest.raises(UsageError, match=r"no metric in the recordings describes machines.*query --machines"):
        read_machines([path])


def test_nodes_without_any_description_are_named(tmp_path: Path) -> None:
    content = fleet()
    for metric in ("kepler_node_cpu_info", "node_memory_MemTotal_bytes", "node_cpu_frequency_max_hertz"):
        content[metric] = [one for one in content[metric] if not one["metric"]["instance"].startswith("node-2:")]
    content.pop("kepler_node_node_info")
    path = written(tmp_path, content)
    with pytest.raises(UsageError, match="no description of 1 of the recordings' nodes: 'node-2:9102'; no metric"):
        groups_from_metrics(observe([read_recording(path, wanted=is_used_metric)]), read_machines([path]))


@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["processor", "architecture", "vendor", "product"]), st.text(max_size=5)),
        st.frozensets(st.text(max_size=30), min_size=1),
        max_size=4,
    ),
    st.dictionaries(
        st.tuples(st.sampled_from(["cores", "physical_cores", "chips", "memory", "frequency"]), st.text(max_size=5)),
        st.frozensets(st.floats(), min_size=1) | st.frozensets(st.tuples(st.text(max_size=3)), min_size=1),
        max_size=5,
    ),
)
@settings(max_examples=60, deadline=None)
def test_any_values_give_a_description_within_its_bounds(
    texts: dict[tuple[str, str], frozenset[str]], numbers: dict[tuple[str, str], frozenset[Any]]
) -> None:
    one = described({**texts, **numbers})
    assert machine_spec_from(one.spec.as_dict(), "metrics") == one.spec
    for name in ("processor", "cores", "chips", "memory", "frequency"):
        assert getattr(one.spec, name) is not None or name in one.problems
    assert all(len(why) < 500 for why in one.problems.values())


def test_the_command_nodes_compares_and_writes_the_types_that_metrics_describe(tmp_path: Path) -> None:
    path, specs = written(tmp_path, fleet()), tmp_path / "specs.json"
    arguments = ["nodes", "-i", path, "--json", "--machine-specs"]
    result = CliRunner().invoke(cli, [*arguments, "metrics", "--write-specs", str(specs)])
    assert result.exit_code == 0, result.output
    tables = json.loads(result.stdout)
    assert [len(table["nodes"]) for table in tables if table["component"] == "platform"] == [3, 2]
    assert read_machine_specs(str(specs))["node-0:9102"] == spec_of(path, "node-0:9102")
    of_file = CliRunner().invoke(cli, [*arguments, str(specs)])
    assert of_file.stdout == result.stdout


def test_the_option_write_specs_needs_metrics(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["nodes", "-i", "a.json", "--write-specs", str(tmp_path / "specs.json")])
    assert "--write-specs needs --machine-specs metrics" in str(result.exception)
