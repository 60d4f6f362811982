"""Node types: index files, which one a machine is, and training that leaves other machines' models alone."""

from __future__ import annotations

import json
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
from kepler_core.plugins.hooks import Events, hookimpl
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


# --- index files ----------------------------------------------------------------------------------


def test_written_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    write_index(path, TYPES)
    found = read_index(path)
    assert {n: (t.spec, t.members) for n, t in found.items()} == {n: (t.spec, t.members) for n, t in TYPES.items()}
    assert json.loads(path.read_text())["1"] == {"attrs": SPECS[1], "members": ["m1"]}
    assert [file.name for file in tmp_path.iterdir()] == ["index.json"]


def test_an_empty_index_is_one(tmp_path: Path) -> None:
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
def test_files_that_are_no_index(content: str, tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(UsageError) as raised:
        read_index(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=60))
def test_any_bytes_as_an_index(content: bytes) -> None:
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


def test_an_index_that_cannot_be_written_stays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is as it was"):
        write_index(tmp_path / "absent" / "index.json", TYPES)


# --- which one ------------------------------------------------------------------------------------


def test_add_to_an_equal_one() -> None:
    types, number = add(TYPES, MachineSpec(**SPECS[1]), "another")
    assert number == 1
    assert types[1].members == ("another", "m1")
    assert TYPES[1].members == ("m1",)


def test_what_somebody_wrote_into_a_node_type_stays() -> None:
    there = {0: NodeType(0, {**SPECS[0], "vendor": "genuineintel", "processor": "Intel_Xeon_Platinum_8259CL"}, ())}
    types, number = add(there, MachineSpec(**SPECS[0]), "m")
    assert number == 0
    assert types[0].spec == there[0].spec


def test_add_a_new_one() -> None:
    types, number = add(TYPES, MachineSpec(processor="x_y", vendor="x"), None)
    assert number == 3
    assert types[3].spec == {"processor": "x_y"}
    assert types[3].members == ()


def test_vendor_and_threads_do_not_make_another_type() -> None:
    assert matching_type(TYPES, {**SPECS[2], "vendor": "v", "threads_per_core": 1}) == 2


specs = st.fixed_dictionaries(
    {},
    optional={
        "processor": st.sampled_from(["intel_xeon_a", "intel_xeon_b", "INTEL_xeon_a", "amd_epyc", "", " ", None, 5]),
        **dict.fromkeys(
            ("cores", "chips", "memory", "frequency"),
            st.sampled_from([0, 1, 2, 10**12, 10**12 - 1, -1, 2.0, float("inf"), float("nan"), None, "2", []]),
        ),
        "vendor": st.text(max_size=3),
    },
)


@given(specs, specs)
def test_alike_by_one_is_equal_for_another(one: dict[str, Any], other: dict[str, Any]) -> None:
    """One definition: similarity 1.0 where training takes two machines for one node type, and only there."""
    assert (compare(one, other).similarity == 1.0) == (identity(one) == identity(other))
    assert compare(one, other).similarity == pytest.approx(compare(other, one).similarity, abs=1e-12)


@pytest.fixture(scope="module")
def ec2() -> dict[int, NodeType]:
    if not EC2.is_dir():
        pytest.skip("the public model database (../shared/data/model_db) is not here")
    return read_index(EC2 / "node_type_index.json")


def test_the_public_ones_are_exact(ec2: dict[int, NodeType]) -> None:
    assert len(ec2) == 6
    for number, one in ec2.items():
        found = match(ec2, one.spec)
        assert (found[0].node_type.number, found[0].likeness.similarity) == (number, 1.0)
        assert [m.likeness.similarity for m in found[1:]] == sorted(
            (m.likeness.similarity for m in found[1:]), reverse=True
        )
        assert found[1].likeness.similarity < 1.0
        assert matching_type(ec2, one.spec) == number


CHANGES = {"processor": "intel_xeon_platinum_9999x", "cores": 90, "chips": 4, "memory": 300, "frequency": 3400}


@pytest.mark.parametrize("attribute", IDENTIFYING)
def test_one_attribute_changed_or_missing(attribute: str, ec2: dict[int, NodeType]) -> None:
    for number, one in ec2.items():
        for spec in (
            {**one.spec, attribute: CHANGES[attribute]},
            {k: v for k, v in one.spec.items() if k != attribute},
        ):
            found = {m.node_type.number: m.likeness for m in match(ec2, spec)}
            own = found[number]
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


def test_machines_that_are_not_in_it(ec2: dict[int, NodeType]) -> None:
    """A relative by its processor, another vendor's of the same size, and one of which little is known."""
    relative = match(ec2, {"processor": "intel_xeon_platinum_8280", "cores": 96, "chips": 2, "memory": 377})
    assert relative[0].node_type.number in (0, 3)
    amd = match(ec2, {"processor": "amd_epyc_7763", "cores": 96, "chips": 2, "memory": 377, "frequency": 3500})
    assert amd[0].likeness.similarity == pytest.approx(0.55)
    assert amd[0].likeness.attributes["processor"] == 0.0
    little = match(ec2, {"cores": 4})
    assert all(m.likeness.uncertainty == pytest.approx(0.8) for m in little)
    assert little[0].likeness.similarity < amd[0].likeness.similarity < relative[0].likeness.similarity


# --- commands -------------------------------------------------------------------------------------


def test_list_match_add_of_an_index(tmp_path: Path) -> None:
    index, other = tmp_path / "index.json", {"processor": "intel_xeon_gold_6130", "cores": 64}
    assert answer("profile", "node-types", "add", "--index", index, "--spec", spec_file(tmp_path, SPECS[0])) == {
        "node_type": 0, "new": True,
    }  # fmt: skip
    spec = spec_file(tmp_path, other)
    assert answer("profile", "node-types", "add", "--index", index, "--spec", spec, "--member", "a")["new"]
    again = answer("profile", "node-types", "add", "--index", index, "--spec", spec, "--member", "b")
    assert again == {"node_type": 1, "new": False}
    listed = answer("profile", "node-types", "list", "--index", index)[str(index)]
    assert listed["0"] == {"machine_spec": SPECS[0], "members": []}
    assert listed["1"] == {"machine_spec": other, "members": ["a", "b"]}
    found = answer("profile", "node-types", "match", "--index", index, "--spec", spec)
    assert found["machine_spec"] == other
    assert [m["node_type"] for m in found["matches"]] == [1, 0]
    assert found["matches"][0]["similarity"] == 1.0
    assert found["matches"][1]["attributes"]["memory"] is None
    table = kepler("profile", "node-types", "match", "--index", index, "--spec", spec).stdout
    assert "1.000" in table
    assert "intel_xeon_platinum_8259cl" in table
    assert kepler("profile", "node-types", "list", "--index", index).stdout.count("intel_xeon") == 2
    one = kepler("profile", "node-types", "match", "--index", index, "--spec", spec, "--most", "1").stdout
    assert "and 1 more" in one


def test_this_machine_is_the_default(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    assert answer("profile", "node-types", "add", "--index", index) == {"node_type": 0, "new": True}
    assert answer("profile", "node-types", "match", "--index", index)["matches"][0]["similarity"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list"], "give --store"),
        (["list", "--store", "s", "--index", "i"], "give --store"),
        (["list", "--index", "absent.json"], "absent.json: No such file"),
        (["list", "--index", "absent.json", "--pipeline", "p"], "--pipeline goes with --store"),
        (["match", "--index", "absent.json", "--spec", "none.json"], "none.json: No such file"),
        (["add", "--spec", "empty.json", "--index", "i.json"], "no attribute of the machine is known"),
        (["add", "--store", "s"], "--pipeline"),
        (["match", "--store", "absent"], "no pipelines"),
    ],
)
def test_wrong_calls(arguments: list[str], words: str, tmp_path: Path) -> None:
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


def test_each_machine_has_its_models(simulated: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first, second = (spec_file(tmp_path, spec, f"{n}.json") for n, spec in enumerate(SPECS[:2]))
    linear, sgd = pipeline(tmp_path), pipeline(tmp_path, "SGDRegressorTrainer", "{name: profile}")
    common = ("-i", simulated, "-s", store, "--name", "p", "-j", "1", "--backend", "threading")
    one = answer("train", linear, *common, "--machine-spec", first, "--machine-id", "m5")
    assert one["node_type"] == 0
    assert {model["node_type"] for model in one["models"]} == {0}
    before = open_store(str(store)).snapshot("p")
    two = answer("train", sgd, *common, "--machine-spec", second)
    assert two["node_type"] == 1
    now = open_store(str(store)).snapshot("p")

    # nothing of the first machine's has changed, be it one byte
    kept = [n for n in before.names if "LinearRegressionTrainer_0" in n or n == "profiles/0.json"]
    assert len(kept) > 4
    for name in kept:
        assert now.read(name) == before.read(name)
    types = read_node_types(now)
    assert [(types[n].spec, types[n].members) for n in (0, 1)] == [(SPECS[0], ("m5",)), (SPECS[1], ("node-0",))]
    for model in read_models(now):
        assert model.metadata["node_type"] == model.node_type
        assert model.metadata["machine_spec"] == SPECS[model.node_type]
    assert {(m.trainer, m.node_type) for m in read_models(now)} == {
        ("LinearRegressionTrainer", 0), ("SGDRegressorTrainer", 1),
    }  # fmt: skip
    assert json.loads(now.read("profiles/1.json"))["machine_spec"] == SPECS[1]
    table = now.read("rapl-sysfs_AbsPower_model_metadata.csv").decode()
    assert "LinearRegressionTrainer_0" in table
    assert "SGDRegressorTrainer_1" in table
    isolation = now.read_json("metadata.json")["isolation"]
    assert isolation["0"]["isolator"]["name"] == "MinIdleIsolator"
    assert isolation["1"]["isolator"]["name"] == "ProfileBackgroundIsolator"

    # the same machine again, under another id: its models are replaced, the other's stay
    three = answer("train", sgd, *common, "--machine-spec", first, "--machine-id", "other")
    assert three["node_type"] == 0
    last = open_store(str(store)).snapshot("p")
    assert {(m.trainer, m.node_type) for m in read_models(last)} == {
        ("SGDRegressorTrainer", 0), ("SGDRegressorTrainer", 1),
    }  # fmt: skip
    assert read_node_types(last)[0].members == ("m5", "other")

    # served and chosen by machine
    assert {m.node_type for m in read_catalogue(open_store(str(store))).models} == {0, 1}
    chosen = answer("select", "-s", store, "--machine-spec", second)["selection"]
    assert (chosen["node_type"]["match"], chosen["node_type"]["number"]) == ("exact", 1)
    matched = answer("profile", "node-types", "match", "-s", store, "-p", "p", "--spec", second)["matches"]
    assert [(m["node_type"], m["similarity"] == 1.0) for m in matched] == [(1, True), (0, False)]

    # adding a machine makes a version with the same models
    added = answer("profile", "node-types", "add", "-s", store, "-p", "p", "--spec", second, "--member", "new")
    assert added == {"node_type": 1, "new": False}
    after = open_store(str(store)).snapshot("p")
    assert after.version == (last.version or 0) + 1
    assert "new" in read_node_types(after)[1].members
    assert after.problems() == {}
    assert {n: after.read(n) for n in after.names if n.endswith(".zip")} == {
        n: last.read(n) for n in last.names if n.endswith(".zip")
    }


def test_without_a_description(simulated: Path, tmp_path: Path) -> None:
    """A machine that nobody describes is the node type without attributes, beside those with some."""
    store, one = tmp_path / "store", pipeline(tmp_path)
    common = ("train", one, "-i", simulated, "-s", store, "-j", "1", "--backend", "threading")
    assert answer(*common)["node_type"] == 0
    assert answer(*common)["node_type"] == 0
    spec = spec_file(tmp_path, SPECS[0])
    assert answer(*common, "--machine-spec", spec)["node_type"] == 1
    assert answer(*common)["node_type"] == 0
    types = read_node_types(open_store(str(store)).snapshot("LinearRegressionTrainer"))
    assert {n: t.spec for n, t in types.items()} == {0: {}, 1: SPECS[0]}


def test_models_that_only_others_can_load_stay(simulated: Path, tmp_path: Path) -> None:
    """Training into a copy of the public pipeline keeps its pickled models as bytes."""
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
    for name in (n for n in before.names if n.endswith(".zip")):
        assert after.read(name) == before.read(name)


def test_two_trainings_at_once(simulated: Path, tmp_path: Path) -> None:
    """Another machine's training publishes while this one fits: both machines' models are there in the end."""
    store = open_store(str(tmp_path / "store"))
    observations = observe([read_recording(simulated)])
    spec = load_pipeline(str(pipeline(tmp_path)))
    first, second, third = (Machine(MachineSpec(**spec), None) for spec in SPECS)
    assert train(spec, observations, store, jobs=1, backend="threading", machine=first).node_type == 0
    assert train(spec, observations, store, jobs=1, backend="threading", machine=second).node_type == 1

    class Meanwhile:
        def __init__(self, other: Machine) -> None:
            self.other, self.done = other, False

        @hookimpl
        def kepler_training_started(self, models: int) -> None:
            if not self.done:
                self.done = True
                train(spec, observations, store, jobs=1, backend="threading", machine=self.other)

    for mine, other, numbers in ((first, second, {0, 1}), (first, third, {0, 1, 2})):
        listeners = Events()
        listeners.listen(Meanwhile(other))
        report = train(spec, observations, store, jobs=1, backend="threading", machine=mine, listeners=listeners)
        assert report.node_type == 0
        snapshot = store.snapshot(spec.name)
        assert {model.node_type for model in read_models(snapshot)} == numbers
        assert set(read_node_types(snapshot)) == numbers
        assert snapshot.problems() == {}

    # two that are new take one number: the second has to be trained again, and nothing is lost
    mine, other = (Machine(MachineSpec(processor="x_y", cores=cores), None) for cores in (1, 2))
    listeners = Events()
    listeners.listen(Meanwhile(other))
    with pytest.raises(StoreError, match=r"node type 3 with it: train again"):
        train(spec, observations, store, jobs=1, backend="threading", machine=mine, listeners=listeners)
    assert set(read_node_types(store.snapshot(spec.name))) == {0, 1, 2, 3}


def test_an_id_without_a_description(simulated: Path, tmp_path: Path) -> None:
    done = kepler("train", pipeline(tmp_path), "-i", simulated, "-s", tmp_path / "s", "--machine-id", "x")
    assert done.returncode == 2
    assert "--machine-id goes with --machine-spec" in done.stderr


def test_a_description_that_is_wrong(simulated: Path, tmp_path: Path) -> None:
    spec = spec_file(tmp_path, {"cores": 4.0})
    done = kepler("train", pipeline(tmp_path), "-i", simulated, "-s", tmp_path / "s", "--machine-spec", spec)
    assert done.returncode == 2
    assert "cores: 4.0 is not a whole number" in done.stderr
    assert not (tmp_path / "s").exists()


def test_attributes_are_those_of_the_description() -> None:
    assert set(IDENTIFYING) < set(ATTRIBUTES)
    assert machine_spec_from(SPECS[0], "x").identity == SPECS[0]
