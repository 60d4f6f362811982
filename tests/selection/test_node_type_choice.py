"""Test that a node type is chosen by its number, or by the description of a machine."""

from __future__ import annotations

import pytest
from support.paths import SHARED
from support.selection import (
    EPYC,
    HASWELL,
    ICELAKE,
    MACHINES,
    catalogue_of_machines,
    no_model_message,
    node_type_match,
    request_for,
)
from support.small_pipelines import CAPTURED, COUNTERS, SmallModel, pipeline
from support.small_pipelines import catalogue as make_catalogue

from kepler_core.models.kepler_weights import LINEAR_TRAINER
from kepler_core.selection import Catalogue, read_catalogue
from kepler_core.store import open_store
from kepler_profiler.similarity import SpecTable, compare

DATABASE = SHARED / "data" / "model_db"


def test_node_type_by_number() -> None:
    assert node_type_match(catalogue_of_machines(), node_type=0) == ("given", 0)
    assert node_type_match(catalogue_of_machines(), node_type=1) == ("given", 1)
    assert "no model of node type 7 (available: 0, 1, 2)" in no_model_message(catalogue_of_machines(), node_type=7)
    assert "no model of node type 7" in no_model_message(
        catalogue_of_machines(), node_type=7, machine_spec=HASWELL, loose_node_type=False
    )
    assert node_type_match(catalogue_of_machines(), node_type=7, machine_spec=EPYC) == ("exact", 2)
    assert node_type_match(catalogue_of_machines(), node_type=1, machine_spec=EPYC) == ("given", 1)


@pytest.mark.parametrize("number", MACHINES)
def test_each_machine_matches_its_own_node_type(number: int) -> None:
    for loose in (True, False):
        spec = {**MACHINES[number], "vendor": "x", "threads_per_core": 2}
        assert node_type_match(catalogue_of_machines(), machine_spec=spec, loose_node_type=loose) == ("exact", number)


@pytest.mark.parametrize("number", MACHINES)
@pytest.mark.parametrize("attribute", ["cores", "chips", "memory", "frequency"])
def test_a_machine_with_one_different_attribute(number: int, attribute: str) -> None:
    spec = {**MACHINES[number], attribute: MACHINES[number][attribute] + 1}  # type: ignore[operator]
    assert node_type_match(catalogue_of_machines(), machine_spec=spec) == ("nearest", number)
    message = no_model_message(catalogue_of_machines(), machine_spec=spec, loose_node_type=False)
    assert f"the nearest is type {number} of made" in message
    assert "similarity 1.000" not in message, "a similarity below 1 must not be shown as 1"


def test_the_most_similar_node_type_of_an_unknown_machine() -> None:
    spec = {"processor": "amd_epyc_7713", "cores": 128, "chips": 2, "memory": 256, "frequency": 3700}
    node_type = catalogue_of_machines().select(request_for(machine_spec=spec)).explain()["node_type"]
    assert (node_type["match"], node_type["number"]) == ("nearest", 2)
    likeness = compare(spec, EPYC)
    assert node_type["similarity"] == pytest.approx(likeness.similarity, abs=1e-6)
    assert node_type["looseness"] == pytest.approx(likeness.looseness, abs=1e-6)
    assert node_type["attributes"] == likeness.attributes


def test_a_request_without_a_machine() -> None:
    assert node_type_match(catalogue_of_machines()) == ("any", 2), "the lowest error of all node types"
    assert node_type_match(catalogue_of_machines(), machine_spec={"processor": "", "cores": 0, "memory": None}) == (
        "any",
        2,
    )


def test_models_without_a_known_machine() -> None:
    catalogue = make_catalogue(SmallModel())
    assert node_type_match(catalogue, machine_spec=HASWELL) == ("unknown", 0)
    assert "not known" in no_model_message(catalogue, machine_spec=HASWELL, loose_node_type=False)
    # A model of a known machine is selected before a model of an unknown machine, even if the known machine is very
    # different from the machine in the request.
    catalogue = make_catalogue(
        one=pipeline(SmallModel(mae=1)), two=pipeline(SmallModel(mae=9), node_types={0: ICELAKE})
    )
    assert catalogue.select(request_for(machine_spec=HASWELL)).model.pipeline == "two"


def test_order_of_filter_node_type_and_error() -> None:
    catalogue = make_catalogue(
        near=pipeline(SmallModel(mae=50), node_types={0: HASWELL}),
        far=pipeline(SmallModel(mae=0.1), node_types={0: EPYC}),
    )
    assert catalogue.select(request_for(machine_spec={**HASWELL, "memory": 63})).model.pipeline == "near"
    # the filter is applied before the node type is chosen
    assert catalogue.select(request_for(machine_spec=HASWELL, filter="mae:1")).model.pipeline == "far"
    assert "nearest" in str(catalogue.select(request_for(machine_spec=HASWELL, filter="mae:1")).explain())


def test_equal_machines_in_two_pipelines() -> None:
    catalogue = make_catalogue(
        one=pipeline(SmallModel(mae=2), node_types={0: HASWELL}),
        two=pipeline(SmallModel(node_type=5, mae=1), node_types={5: HASWELL}),
    )
    selection = catalogue.select(request_for(machine_spec=HASWELL))
    assert (selection.model.pipeline, selection.model.node_type) == ("two", 5)
    assert selection.runner_up is not None
    assert selection.runner_up.pipeline == "one"


# --- node types of the public model database ---


@pytest.fixture(scope="module")
def database() -> Catalogue:
    if not DATABASE.is_dir():
        pytest.skip("the public database (../shared/data/model_db) is not here")
    return read_catalogue(open_store(str(DATABASE)), compare=SpecTable)


@pytest.mark.shared_data
def test_the_public_database_can_be_read(database: Catalogue) -> None:
    assert len(database.models) == 61
    assert database.broken == {}
    assert set(database.node_types["ec2-0.7.11"]) == set(range(6))
    assert not any(model.portable for model in database.models)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("weights", "number"),
    [(weights, number) for weights in (True, False) for number in range(6) if not (weights and number == 2)],
)
def test_each_machine_of_the_public_database_matches_its_own_node_type(
    database: Catalogue, number: int, weights: bool
) -> None:
    """Each machine matches its own node type. Weights of node type 2 are not tested: they can give negative watts."""
    spec = database.node_types["ec2-0.7.11"][number].spec
    keys = {"metrics": COUNTERS, "source": "intel_rapl", "weights": weights, "machine_spec": spec}
    assert node_type_match(database, **keys) == ("exact", number)
    assert node_type_match(database, **keys, loose_node_type=False) == ("exact", number)
    assert node_type_match(database, **{**keys, "machine_spec": {**spec, "memory": spec["memory"] + 4}}) == (
        "nearest",
        number,
    )


@pytest.mark.shared_data
def test_a_captured_request_of_kepler(database: Catalogue) -> None:
    metrics, spec = tuple(CAPTURED["metrics"]), CAPTURED["machine_spec"]
    request = request_for(metrics=metrics, source="intel_rapl", trainer=LINEAR_TRAINER, weights=True, machine_spec=spec)
    selection = database.select(request)
    assert selection.model.path == "rapl-sysfs/AbsPower/BPFOnly/SGDRegressorTrainer_0"
    assert selection.explain()["node_type"]["match"] == "nearest"
    assert selection.explain()["node_type"]["similarity"] > 0.99
