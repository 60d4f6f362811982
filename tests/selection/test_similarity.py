"""Test the similarity of machines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kepler_core.processor_names import comparable_processor
from kepler_profiler.similarity import ATTRIBUTES, EXPECTED, WEIGHTS, SpecTable, compare, processor_likeness

BASE = {"processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2, "memory": 377, "frequency": 3500}

PROCESSORS = (
    "intel_xeon_platinum_8259cl", "intel_xeon_platinum_8275cl", "intel_xeon_e5_2686v4", "intel_core_i7", "intel",
    "amd_epyc_7763", "amd_epyc_7713", "arm_neoverse", "", "x",
)  # fmt: skip

numbers = st.none() | st.integers(0, 4096) | st.floats(0, 1e12)
specs = st.fixed_dictionaries(
    {},
    optional={
        "processor": st.none() | st.sampled_from(PROCESSORS) | st.text(max_size=12),
        "cores": numbers,
        "chips": numbers,
        "memory": numbers,
        "frequency": numbers,
        "vendor": st.text(max_size=5),
        "threads_per_core": st.integers(0, 8),
    },
)


def stated(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the known attributes of a machine spec, with the processor's name in the form that comparisons use."""
    attributes = {key: spec.get(key) for key in ATTRIBUTES}
    attributes["processor"] = comparable_processor(attributes["processor"])
    return {key: value for key, value in attributes.items() if value}


@given(specs, specs)
def test_similarity_is_symmetric_and_in_bounds(one: dict[str, Any], other: dict[str, Any]) -> None:
    result, reverse = compare(one, other), compare(other, one)
    assert result.similarity == pytest.approx(reverse.similarity, abs=1e-12)
    for value in (result.similarity, result.looseness, result.uncertainty):
        assert -1e-12 <= value <= 1 + 1e-12
    assert (result.similarity == 1.0) == (stated(one) == stated(other))
    assert set(result.attributes) == set(stated(one)) | set(stated(other))
    both = set(stated(one)) & set(stated(other))
    for name, likeness in result.attributes.items():
        assert (likeness is not None) == (name in both)
        assert likeness is None or 0 <= likeness <= 1


@given(specs, st.lists(specs, max_size=5))
def test_a_table_agrees_with_each_pair(spec: dict[str, Any], others: list[dict[str, Any]]) -> None:
    similarities = SpecTable(others).similarities(spec)
    assert similarities.shape == (len(others),)
    np.testing.assert_allclose(similarities, [compare(spec, other).similarity for other in others], atol=1e-12)


@given(st.sampled_from(PROCESSORS), st.sampled_from(PROCESSORS))
def test_processor_likeness_is_symmetric(one: str, other: str) -> None:
    assert processor_likeness(one, other) == processor_likeness(other, one)
    assert (processor_likeness(one, other) == 1.0) == (one == other)


def test_weights_add_up_to_1() -> None:
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_one_attribute_changed(attribute: str) -> None:
    other = {**BASE, attribute: "amd_epyc_7763" if attribute == "processor" else BASE[attribute] / 2}  # type: ignore[operator]
    result = compare(BASE, other)
    lost = WEIGHTS[attribute] * (1.0 if attribute == "processor" else 0.5)
    assert result.similarity == pytest.approx(1 - lost)
    assert result.looseness == pytest.approx(lost)
    assert result.uncertainty == 0.0


@pytest.mark.parametrize("attribute", ATTRIBUTES)
@pytest.mark.parametrize("absent", [None, "", 0, "missing"])
def test_an_attribute_that_only_one_spec_has(attribute: str, absent: Any) -> None:
    other = {key: value for key, value in BASE.items() if key != attribute}
    if absent != "missing":
        other[attribute] = absent
    result = compare(BASE, other)
    assert result.uncertainty == pytest.approx(WEIGHTS[attribute])
    assert result.looseness == pytest.approx(0.0)
    assert result.similarity == pytest.approx(1 - WEIGHTS[attribute] * (1 - EXPECTED))
    assert result.attributes[attribute] is None


def test_an_attribute_that_neither_spec_has_is_ignored() -> None:
    without = {key: value for key, value in BASE.items() if key != "memory"}
    assert compare(without, dict(without)).similarity == 1.0
    result = compare(without, {**without, "cores": 48})
    assert result.looseness == pytest.approx(0.5 * WEIGHTS["cores"] / (1 - WEIGHTS["memory"]))
    assert "memory" not in result.attributes


def test_empty_specs() -> None:
    assert compare({}, {}).similarity == 1.0
    assert compare({}, BASE).similarity == pytest.approx(EXPECTED)
    assert SpecTable([]).similarities(BASE).shape == (0,)


def test_related_processors_are_more_similar() -> None:
    """The same processor is most similar. Related processors are less similar, and other vendors' are least similar."""
    order = ["intel_xeon_platinum_8259cl", "intel_xeon_platinum_8275cl", "intel_core_i7_1185g7", "amd_epyc_7763"]
    similarities = [compare(BASE, {**BASE, "processor": processor}).similarity for processor in order]
    assert similarities == sorted(similarities, reverse=True)
    assert len(set(similarities)) == 4


@given(st.integers(1, 512), st.integers(1, 512), st.integers(1, 512))
def test_a_nearer_number_of_cores_is_more_similar(cores: int, one: int, other: int) -> None:
    machine = {**BASE, "cores": cores}
    likeness = {n: compare(machine, {**BASE, "cores": n}).similarity for n in (one, other)}
    ratio = {n: min(cores, n) / max(cores, n) for n in (one, other)}
    if ratio[one] > ratio[other] + 1e-9:
        assert likeness[one] > likeness[other]


def test_case_and_blanks_of_a_name_are_ignored() -> None:
    assert compare(BASE, {**BASE, "processor": " Intel_Xeon_Platinum_8259CL "}).similarity == 1.0
    assert compare(BASE, {**BASE, "vendor": "x", "threads_per_core": 9}).similarity == 1.0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("amd_epyc_7763_64_core", "amd_epyc_7763"),
        ("13th_gen_intel_core_i7_1370p", "intel_core_i7_1370p"),
        ("intel_xeon_platinum_8480+", "intel_xeon_platinum_8480"),
    ],
)
def test_spellings_of_a_processor_are_equal(one: str, other: str) -> None:
    assert compare({**BASE, "processor": one}, {**BASE, "processor": other}).similarity == 1.0


def test_a_name_that_fits_several_generations_counts_as_absent() -> None:
    without = {key: value for key, value in BASE.items() if key != "processor"}
    vague = {**BASE, "processor": "Intel(R) Xeon(R) CPU @ 2.20GHz"}
    assert compare(vague, BASE) == compare(without, BASE)
    assert compare(vague, BASE).attributes["processor"] is None


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "96", [], True])
def test_values_that_are_not_numbers(value: Any) -> None:
    assert 0 <= compare({**BASE, "cores": value}, BASE).similarity < 1
