"""Tests of node types: index files, the node type of a machine, and trainings that keep models of other machines."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import kepler
from support.paths import SHARED

from kepler_core.errors import StoreError, UsageError
from kepler_core.machine import ATTRIBUTES, IDENTIFYING, Machine, MachineSpec, identity, machine_spec_from
from kepler_core.pipeline.load import load_pipeline
from kepler_core.pipeline.node_types import matching_type
from kepler_core.pipeline.train import train
from kepler_core.plugins.hooks import Hooks, hookimpl
from kepler_core.recording import observe, read_recording
from kepler_core.selection import read_catalogue
from kepler_core.simulate import Simulation, write
from kepler_core.store import open_store
from kepler_core.store.models import NodeType, read_models, read_node_types
from kepler_profiler.node_types import add, match, read_index, write_index
from kepler_profiler.similarity import compare

EC2 = SHARED / "data" / "model_db" / "ec2-0.7.11"

SPECS: list[dict[str, Any]] = [
    {"processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2, "memory": 377, "frequency": 3500},
    {"processor": "intel_xeon_e5_2686v4", "cores": 72, "chips": 2, "memory": 503, "frequency": 3000},
    {"processor": "amd_epyc_7763", "cores": 128, "chips": 1, "memory": 503, "frequency": 3500},
]
TYPES = {number: NodeType(number, spec, (f"m{number}",)) for number, spec in enumerate(SPECS)}


def answer(*arguments: str | Path) -> Any:
    done = kepler(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def spec_file(folder: Path, spec: dict[str, Any], name: str = "spec.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(spec))
    return path


def contents(types: dict[int, NodeType]) -> dict[int, tuple[Any, tuple[str, ...]]]:
    return {number: (entry.spec, entry.members) for number, entry in types.items()}


# --- index files ----------------------------------------------------------------------------------


def test_index_files_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    write_index(path, TYPES)
    assert contents(read_index(path)) == contents(TYPES)
    assert json.loads(path.read_text())["1"] == {"attrs": SPECS[1], "members": ["m1"]}
    assert [file.name for file in tmp_path.iterdir()] == ["index.json"]


def test_an_empty_index(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text("{}")
    assert read_index(path) == {}
    assert matching_type({}, SPECS[0]) == 0


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "null", "{", '{"a": {"attrs": {}}}', '{"-1": {"attrs": {}}}', '{"0": 5}', '{"0": {}}',
        '{"0": {"attrs": []}}', '{"0": {"attrs": {"cores": 4.5}}}', '{"0": {"attrs": {"core": 4}}}',
        '{"0": {"attrs": {}, "members": "x"}}', '{"99999999999": {"attrs": {}}}', '{"²": {"attrs": {}}}',
        '{"processor": "intel_xeon", "cores": 4}', "[" * 100_000,
    ],
)  # fmt: skip
def test_files_that_are_not_an_index(content: str, tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(UsageError) as raised:
        read_index(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_index_or_an_error_of_one_line(content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            read_index(file.name)
        except UsageError as error:
            message = str(error)
        else:
            return
    assert "\n" not in message


def test_a_failed_write_keeps_the_index(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the file is unchanged"):
        write_index(tmp_path / "absent" / "index.json", TYPES)


# --- the node type of a machine ------------------------------------------------------------------------------------


def test_add_a_machine_to_an_equal_node_type() -> None:
    types, number = add(TYPES, MachineSpec(**SPECS[1]), "another")
    assert number == 1
    assert types[1].members == ("another", "m1")
    assert TYPES[1].members == ("m1",)


def test_adding_a_machine_keeps_the_attributes_of_its_node_type() -> None:
    before = {0: NodeType(0, {**SPECS[0], "vendor": "genuineintel", "processor": "Intel_Xeon_Platinum_8259CL"}, ())}
    types, number = add(before, MachineSpec(**SPECS[0]), "m")
    assert number == 0
    assert types[0].spec == before[0].spec


def test_add_a_machine_as_a_new_node_type() -> None:
    types, number = add(TYPES, MachineSpec(processor="x_y", vendor="x"), None)
    assert number == 3
    assert types[3].spec == {"processor": "x_y"}
    assert types[3].members == ()


def test_vendor_and_threads_do_not_change_the_node_type() -> None:
    assert matching_type(TYPES, {**SPECS[2], "vendor": "v", "threads_per_core": 1}) == 2


def test_other_spellings_of_a_processor_do_not_change_the_node_type() -> None:
    types = {
        0: NodeType(0, {"processor": "amd_epyc_7763", "cores": 128}, ()),
        1: NodeType(1, {"processor": "intel_core_i7_1370p", "cores": 20}, ()),
    }
    assert matching_type(types, {"processor": "amd_epyc_7763_64_core", "cores": 128}) == 0
    assert matching_type(types, {"processor": "13th_gen_intel_core_i7_1370p", "cores": 20}) == 1
    assert matching_type(types, {"processor": "13th_gen_intel_core_i7_13700", "cores": 20}) == 2


def test_whole_floats_in_an_index_are_numbers(tmp_path: Path) -> None:
    """If an index file contains whole numbers such as 128.0, they are written as 128, because Kepler rejects 128.0."""
    path = tmp_path / "index.json"
    attributes = {"processor": "amd_epyc_7763", "cores": 128.0, "memory": 256.0}
    path.write_text(json.dumps({"0": {"attrs": attributes, "members": ["a"]}}))
    types = read_index(path)
    assert matching_type(types, {"processor": "amd_epyc_7763", "cores": 128, "memory": 256}) == 0
    write_index(path, types)
    assert '"cores": 128,' in path.read_text()
    path.write_text(path.read_text().replace("128", "128.5"))
    with pytest.raises(UsageError, match=r"128\.5 is not a whole number"):
        read_index(path)


specs = st.fixed_dictionaries(
    {},
    optional={
        "processor": st.sampled_from(
            ["intel_xeon_8160", "Intel(R) Xeon(R) 8160 CPU", "intel_xeon_8280", "amd_epyc", " ", None, 5]
        ),
        **dict.fromkeys(
            ("cores", "chips", "memory", "frequency"),
            st.sampled_from([0, 1, 2, 10**12, 10**12 - 1, -1, 2.0, float("inf"), float("nan"), None, "2", []]),
        ),
        "vendor": st.text(max_size=3),
    },
)


@given(specs, specs)
def test_similarity_is_1_for_machines_of_one_node_type_only(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Model selection (`compare`) and training (`identity`) agree about which machines are equal."""
    assert (compare(one, other).similarity == 1.0) == (identity(one) == identity(other))
    assert compare(one, other).similarity == pytest.approx(compare(other, one).similarity, abs=1e-12)


@pytest.fixture(scope="module")
def ec2() -> dict[int, NodeType]:
    if not EC2.is_dir():
        pytest.skip("the public model database (../shared/data/model_db) is not here")
    return read_index(EC2 / "node_type_index.json")


@pytest.mark.shared_data
def test_machines_of_the_public_database_match_exactly(ec2: dict[int, NodeType]) -> None:
    assert len(ec2) == 6
    for number, entry in ec2.items():
        matches = match(ec2, entry.spec)
        assert (matches[0].node_type.number, matches[0].likeness.similarity) == (number, 1.0)
        similarities = [other.likeness.similarity for other in matches[1:]]
        assert similarities == sorted(similarities, reverse=True)
        assert similarities[0] < 1.0
        assert matching_type(ec2, entry.spec) == number


CHANGES = {"processor": "intel_xeon_platinum_9999x", "cores": 90, "chips": 4, "memory": 300, "frequency": 3400}


@pytest.mark.shared_data
@pytest.mark.parametrize("attribute", IDENTIFYING)
def test_a_machine_with_one_attribute_changed_or_missing(attribute: str, ec2: dict[int, NodeType]) -> None:
    for number, entry in ec2.items():
        for spec in (
            {**entry.spec, attribute: CHANGES[attribute]},
            {key: value for key, value in entry.spec.items() if key != attribute},
        ):
            own = {other.node_type.number: other.likeness for other in match(ec2, spec)}[number]
            assert 0.5 < own.similarity < 1.0
            if attribute in spec:
                assert own.uncertainty == 0
                assert own.looseness > 0
                assert own.attributes[attribute] is not None
            else:
                assert own.uncertainty > 0
                assert own.looseness == 0
                assert own.attributes[attribute] is None
            assert all(own.attributes[name] == 1.0 for name in IDENTIFYING if name != attribute)
            assert matching_type(ec2, spec) == 6


@pytest.mark.shared_data
def test_matches_of_machines_outside_of_the_database(ec2: dict[int, NodeType]) -> None:
    """Find the nearest node types of three machines.

    One has a processor that is related to one in the database. One has a processor of another vendor. For one machine,
    only the number of cores is known.
    """
    relative = match(ec2, {"processor": "intel_xeon_platinum_8280", "cores": 96, "chips": 2, "memory": 377})
    assert relative[0].node_type.number in (0, 3)
    amd = match(ec2, {"processor": "amd_epyc_7763", "cores": 96, "chips": 2, "memory": 377, "frequency": 3500})
    assert amd[0].likeness.similarity == pytest.approx(0.55)
    assert amd[0].likeness.attributes["processor"] == 0.0
    little = match(ec2, {"cores": 4})
    assert all(entry.likeness.uncertainty == pytest.approx(0.8) for entry in little)
    assert little[0].likeness.similarity < amd[0].likeness.similarity < relative[0].likeness.similarity


# --- commands -------------------------------------------------------------------------------------


INDEX = {
    "0": {"attrs": SPECS[0], "members": []},
    "1": {"attrs": {"processor": "intel_xeon_gold_6130", "cores": 64}, "members": ["a", "b"]},
}


def test_add_to_an_index(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    first, second = (spec_file(tmp_path, INDEX[n]["attrs"], f"{n}.json") for n in ("0", "1"))
    assert answer("profile", "node-types", "add", "--index", index, "--spec", first) == {"node_type": 0, "new": True}
    assert answer("profile", "node-types", "add", "--index", index, "--spec", second, "--member", "a")["new"]
    again = answer("profile", "node-types", "add", "--index", index, "--spec", second, "--member", "b")
    assert again == {"node_type": 1, "new": False}
    assert json.loads(index.read_text()) == INDEX


def test_list_and_match_of_an_index(tmp_path: Path) -> None:
    index, spec = spec_file(tmp_path, INDEX, "index.json"), spec_file(tmp_path, INDEX["1"]["attrs"])
    types = answer("profile", "node-types", "list", "--index", index)[str(index)]
    assert types["0"] == {"machine_spec": SPECS[0], "members": []}
    assert types["1"] == {"machine_spec": INDEX["1"]["attrs"], "members": ["a", "b"]}
    result = answer("profile", "node-types", "match", "--index", index, "--spec", spec)
    assert result["machine_spec"] == INDEX["1"]["attrs"]
    assert [entry["node_type"] for entry in result["matches"]] == [1, 0]
    assert result["matches"][0]["similarity"] == 1.0
    assert result["matches"][1]["attributes"]["memory"] is None


def test_tables_of_an_index(tmp_path: Path) -> None:
    index, spec = spec_file(tmp_path, INDEX, "index.json"), spec_file(tmp_path, INDEX["1"]["attrs"])
    table = kepler("profile", "node-types", "match", "--index", index, "--spec", spec).stdout
    assert "1.000" in table
    assert "intel_xeon_platinum_8259cl" in table
    assert kepler("profile", "node-types", "list", "--index", index).stdout.count("intel_xeon") == 2
    first = kepler("profile", "node-types", "match", "--index", index, "--spec", spec, "--most", "1").stdout
    assert "and 1 more" in first


def test_node_types_of_this_machine_by_default(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    assert answer("profile", "node-types", "add", "--index", index) == {"node_type": 0, "new": True}
    assert answer("profile", "node-types", "match", "--index", index)["matches"][0]["similarity"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list"], "give --store"),
        (["list", "--store", "s", "--index", "i"], "give --store"),
        (["list", "--index", "absent.json"], "absent.json: No such file"),
        (["list", "--index", "absent.json", "--pipeline", "p"], "--pipeline can only be used together with --store"),
        (["match", "--index", "absent.json", "--spec", "none.json"], "none.json: No such file"),
        (["add", "--spec", "empty.json", "--index", "i.json"], "no attribute of the machine is known"),
        (["add", "--store", "s"], "--pipeline"),
        (["match", "--store", "absent"], "no pipelines"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("{}")
    done = kepler("profile", "node-types", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["empty.json"]


# --- training -------------------------------------------------------------------------------------

PIPELINE = """
energy_sources: [rapl]
feature_groups: [CounterOnly]
isolator: {isolator}
abs_trainers: [{trainer}]
dyn_trainers: [{trainer}]
validation: {{folds: 2}}
"""


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "simulated.json.gz"
    write(Simulation(containers=4, timestamps=100), str(path))
    return path


def pipeline(folder: Path, trainer: str = "LinearRegressionTrainer", isolator: str = "MinIdleIsolator") -> Path:
    path = folder / f"{trainer}.yaml"
    path.write_text(PIPELINE.format(trainer=trainer, isolator=isolator))
    return path


COMMON = ("--name", "p", "-j", "1", "--backend", "threading")


@pytest.fixture(scope="module")
def two_machines(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store. Version 1 of the pipeline `p` was trained on one machine, version 2 on another."""
    folder = tmp_path_factory.mktemp("two")
    first, second = (spec_file(folder, spec, f"{n}.json") for n, spec in enumerate(SPECS[:2]))
    linear, sgd = pipeline(folder), pipeline(folder, "SGDRegressorTrainer", "{name: profile}")
    common = ("-i", simulated, "-s", folder / "store", *COMMON)
    report = answer("train", linear, *common, "--machine-spec", first, "--machine-id", "m5")
    assert report["node_type"] == 0
    assert {model["node_type"] for model in report["models"]} == {0}
    assert answer("train", sgd, *common, "--machine-spec", second)["node_type"] == 1
    return folder


@pytest.fixture
def own_store(two_machines: Path, tmp_path: Path) -> Path:
    """A copy of the store in the folder `two_machines`. A test may change the copy."""
    return Path(shutil.copytree(two_machines / "store", tmp_path / "store", symlinks=True))


def test_a_training_keeps_the_files_of_other_machines(two_machines: Path) -> None:
    store = open_store(str(two_machines / "store"))
    before, after = store.snapshot("p", 1), store.snapshot("p", 2)
    kept = [name for name in before.names if "LinearRegressionTrainer_0" in name or name == "profiles/0.json"]
    assert len(kept) > 4
    for name in kept:
        assert after.read(name) == before.read(name)


def test_a_training_adds_the_models_of_its_machine(two_machines: Path) -> None:
    snapshot = open_store(str(two_machines / "store")).snapshot("p")
    assert contents(read_node_types(snapshot)) == {0: (SPECS[0], ("m5",)), 1: (SPECS[1], ("node-0",))}
    models = read_models(snapshot)
    for model in models:
        assert model.metadata["node_type"] == model.node_type
        assert model.metadata["machine_spec"] == SPECS[model.node_type]
    assert {(model.trainer, model.node_type) for model in models} == {
        ("LinearRegressionTrainer", 0), ("SGDRegressorTrainer", 1),
    }  # fmt: skip
    assert json.loads(snapshot.read("profiles/1.json"))["machine_spec"] == SPECS[1]
    table = snapshot.read("rapl-sysfs_AbsPower_model_metadata.csv").decode()
    assert "LinearRegressionTrainer_0" in table
    assert "SGDRegressorTrainer_1" in table
    isolation = snapshot.read_json("metadata.json")["isolation"]
    assert isolation["0"]["isolator"]["name"] == "MinIdleIsolator"
    assert isolation["1"]["isolator"]["name"] == "ProfileBackgroundIsolator"


def test_a_training_replaces_the_models_of_its_machine(simulated: Path, two_machines: Path, own_store: Path) -> None:
    """A second training of machine 0 with another machine id replaces the models of machine 0, and no other models."""
    sgd = pipeline(two_machines, "SGDRegressorTrainer", "{name: profile}")
    common = ("-i", simulated, "-s", own_store, *COMMON)
    report = answer("train", sgd, *common, "--machine-spec", two_machines / "0.json", "--machine-id", "other")
    assert report["node_type"] == 0
    snapshot = open_store(str(own_store)).snapshot("p")
    assert {(model.trainer, model.node_type) for model in read_models(snapshot)} == {
        ("SGDRegressorTrainer", 0), ("SGDRegressorTrainer", 1),
    }  # fmt: skip
    assert read_node_types(snapshot)[0].members == ("m5", "other")


def test_models_are_selected_by_machine(two_machines: Path) -> None:
    store, second = two_machines / "store", two_machines / "1.json"
    assert {model.node_type for model in read_catalogue(open_store(str(store))).models} == {0, 1}
    node_type = answer("select", "-s", store, "--machine-spec", second)["selection"]["node_type"]
    assert (node_type["match"], node_type["number"]) == ("exact", 1)
    matches = answer("profile", "node-types", "match", "-s", store, "-p", "p", "--spec", second)["matches"]
    assert [(entry["node_type"], entry["similarity"] == 1.0) for entry in matches] == [(1, True), (0, False)]


def test_adding_a_machine_publishes_a_version_with_the_same_models(two_machines: Path, own_store: Path) -> None:
    store = open_store(str(own_store))
    before = store.snapshot("p")
    second = two_machines / "1.json"
    result = answer("profile", "node-types", "add", "-s", own_store, "-p", "p", "--spec", second, "--member", "new")
    assert result == {"node_type": 1, "new": False}
    after = store.snapshot("p")
    assert after.version == (before.version or 0) + 1
    assert "new" in read_node_types(after)[1].members
    assert after.problems() == {}
    assert {name: after.read(name) for name in after.names if name.endswith(".zip")} == {
        name: before.read(name) for name in before.names if name.endswith(".zip")
    }


def test_trainings_without_a_machine_description(simulated: Path, tmp_path: Path) -> None:
    """A training without a machine description gets the node type without attributes."""
    store = tmp_path / "store"
    common = ("train", pipeline(tmp_path), "-i", simulated, "-s", store, "-j", "1", "--backend", "threading")
    assert answer(*common)["node_type"] == 0
    assert answer(*common)["node_type"] == 0
    spec = spec_file(tmp_path, SPECS[0])
    assert answer(*common, "--machine-spec", spec)["node_type"] == 1
    assert answer(*common)["node_type"] == 0
    types = read_node_types(open_store(str(store)).snapshot("LinearRegressionTrainer"))
    assert {number: entry.spec for number, entry in types.items()} == {0: {}, 1: SPECS[0]}


@pytest.mark.shared_data
def test_a_training_keeps_models_that_kepler_core_cannot_load(simulated: Path, tmp_path: Path) -> None:
    """A training into a pipeline of the public database does not change its zip files, which contain pickled models."""
    if not EC2.is_dir():
        pytest.skip("the public model database (../shared/data/model_db) is not here")
    store = tmp_path / "store"
    done = kepler("store", "import", EC2, "-s", store, "--name", "ec2")
    assert done.returncode == 0, done.stderr
    before = open_store(str(store)).snapshot("ec2")
    common = ("-i", simulated, "-s", store, "--name", "ec2", "-j", "1", "--backend", "threading")
    report = answer("train", pipeline(tmp_path), *common, "--machine-spec", spec_file(tmp_path, SPECS[2]))
    assert report["node_type"] == 6
    after = open_store(str(store)).snapshot("ec2")
    kept = {model.path for model in read_models(before)}
    assert kept
    assert kept < {model.path for model in read_models(after)}
    for name in (name for name in before.names if name.endswith(".zip")):
        assert after.read(name) == before.read(name)


def test_concurrent_trainings_of_two_machines(simulated: Path, tmp_path: Path) -> None:
    """If models of another machine are published while a training runs, the training keeps these models."""
    store = open_store(str(tmp_path / "store"))
    observations = observe([read_recording(simulated)])
    spec = load_pipeline(str(pipeline(tmp_path)))
    first, second, third = (Machine(MachineSpec(**spec), None) for spec in SPECS)
    assert train(spec, observations, store, jobs=1, backend="threading", machine=first).node_type == 0
    assert train(spec, observations, store, jobs=1, backend="threading", machine=second).node_type == 1

    class TrainsMeanwhile:
        """A listener that trains models of another machine when the first training starts, and only then."""

        def __init__(self, other: Machine) -> None:
            self.other, self.done = other, False

        @hookimpl
        def kepler_training_started(self, models: int) -> None:
            if not self.done:
                self.done = True
                train(spec, observations, store, jobs=1, backend="threading", machine=self.other)

    for machine, other, numbers in ((first, second, {0, 1}), (first, third, {0, 1, 2})):
        listeners = Hooks()
        listeners.listen(TrainsMeanwhile(other))
        report = train(spec, observations, store, jobs=1, backend="threading", machine=machine, listeners=listeners)
        assert report.node_type == 0
        snapshot = store.snapshot(spec.name)
        assert {model.node_type for model in read_models(snapshot)} == numbers
        assert set(read_node_types(snapshot)) == numbers
        assert snapshot.problems() == {}

    # Two trainings at the same time give the same number to two new node types. The training that publishes later
    # fails, and must be repeated.
    machine, other = (Machine(MachineSpec(processor="x_y", cores=cores), None) for cores in (1, 2))
    listeners = Hooks()
    listeners.listen(TrainsMeanwhile(other))
    with pytest.raises(StoreError, match=r"as node type 3: train again"):
        train(spec, observations, store, jobs=1, backend="threading", machine=machine, listeners=listeners)
    assert set(read_node_types(store.snapshot(spec.name))) == {0, 1, 2, 3}


def test_a_machine_id_needs_a_description(simulated: Path, tmp_path: Path) -> None:
    done = kepler("train", pipeline(tmp_path), "-i", simulated, "-s", tmp_path / "s", "--machine-id", "x")
    assert done.returncode == 2
    assert "--machine-id needs --machine-spec" in done.stderr


def test_a_wrong_machine_description(simulated: Path, tmp_path: Path) -> None:
    spec = spec_file(tmp_path, {"cores": 4.5})
    done = kepler("train", pipeline(tmp_path), "-i", simulated, "-s", tmp_path / "s", "--machine-spec", spec)
    assert done.returncode == 2
    assert "cores: 4.5 is not a whole number" in done.stderr
    assert not (tmp_path / "s").exists()


def test_identifying_attributes_are_attributes_of_a_description() -> None:
    assert set(IDENTIFYING) < set(ATTRIBUTES)
    assert machine_spec_from(SPECS[0], "x").identity == SPECS[0]
