"""Tests of the tables of processors and cloud instances."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import SHARED

from kepler_core.machine import MachineSpec
from kepler_profiler.formula import Estimate, describe, estimate, host_of
from kepler_profiler.processors import (
    Processor,
    ProcessorTableError,
    decode_instances,
    decode_processors,
    instance_type,
    instance_vcpus,
    instances,
    lookup,
    processors,
    similar_processors,
    sources,
)

XEON = "Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz"


def found(name: str) -> Processor:
    processor = lookup(name)
    assert processor is not None, name
    return processor


@pytest.mark.parametrize(
    ("name", "cores", "threads", "tdp", "year"),
    [
        (XEON, 14, 28, 120, 2016),
        ("intel_xeon_e5_2680v4", 14, 28, 120, 2016),
        ("INTEL(R) XEON(R) PLATINUM 8480+", 56, 112, 350, 2023),
        ("AMD EPYC 7763 64-Core Processor", 64, 128, 280, 2021),
        ("AMD Ryzen 9 7950X3D 16-Core Processor", 16, 32, 120, 2023),
        ("12th Gen Intel(R) Core(TM) i7-12700K", 12, 20, 125, 2021),
        ("Gold 6230", 20, 40, 125, 2019),
        ("core i5-7200U", 2, 4, 15, 2016),
        ("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz", 24, 48, None, 2019),
        ("intel_family_6_model_85_stepping_7", None, None, None, 2019),
        ("arm_neoverse_n1", None, None, None, 2019),
    ],
)
def test_a_processor_is_found_by_each_spelling_of_its_name(
    name: str, cores: int | None, threads: int | None, tdp: float | None, year: int
) -> None:
    processor = found(name)
    assert (processor.cores, processor.threads, processor.tdp_watts, processor.year) == (cores, threads, tdp, year)


@pytest.mark.parametrize(
    "name", ["", "QEMU Virtual CPU version 2.5+", "Intel Xeon CPU @ 2.20GHz", "EPYC", "x" * 10_000]
)
def test_a_name_that_fits_several_processors_finds_none(name: str) -> None:
    assert lookup(name) is None


@given(st.text(max_size=60))
def test_every_text_is_a_known_or_an_unknown_name(name: str) -> None:
    assert lookup(name) is None or found(name) in processors()
    assert instance_type(name) is None or instance_type(name) in instances()
    assert instance_vcpus(name) is None or isinstance(instance_vcpus(name), int)


def test_similar_names_are_proposed() -> None:
    assert "Intel Xeon E5-2683 v4" in similar_processors("Xeon E5-2681 v4")


def test_every_row_has_a_source_and_possible_numbers() -> None:
    assert len(processors()) >= 150
    for processor in processors():
        assert sources()[processor.source]
        assert lookup(processor.model) == processor
        assert processor.year is not None
        if processor.tdp_watts is not None and processor.cores is not None:
            assert 1 <= processor.tdp_watts / processor.cores <= 50, processor.model
        if processor.cores is not None and processor.threads is not None:
            assert processor.threads in (processor.cores, 2 * processor.cores) or processor.client, processor.model
    for family in instances():
        assert sources()[family.source]
        assert all(lookup(name) is not None for name in family.processors), family.family


@pytest.mark.parametrize(
    ("name", "provider", "family", "vcpus"),
    [
        ("m5.2xlarge", "aws", "m5", 8),
        ("c7g.large", "aws", "c7g", 2),
        ("Standard_D4s_v5", "azure", "dsv5", 4),
        ("Standard_F16s_v2", "azure", "fsv2", 16),
        ("n2-standard-8", "gcp", "n2", 8),
        ("c3-highmem-176", "gcp", "c3", 176),
        ("cpx31", "hetzner", "cpx", None),
    ],
)
def test_an_instance_is_found_by_its_name(name: str, provider: str, family: str, vcpus: int | None) -> None:
    row = instance_type(name)
    assert row is not None
    assert (row.provider, row.family, instance_vcpus(name)) == (provider, family, vcpus)


def test_every_host_with_a_published_size_has_an_estimate() -> None:
    hosts = [host for family in instances() if (host := host_of(family)) is not None]
    assert len(hosts) > 40
    for host in hosts:
        assert isinstance(estimate(host, 0.5), Estimate)
        assert host.threads in (host.known_cores, 2 * host.known_cores)
    azure = instance_type("Standard_D4s_v5")
    assert azure is not None
    assert host_of(azure) is None


def test_facts_in_which_the_processors_of_an_instance_differ_are_unknown() -> None:
    family = instance_type("m5.large")
    assert family is not None
    host = host_of(family)
    assert host is not None
    assert (host.threads, host.chips, host.cores, host.tdp_watts, host.memory_gib) == (96, 2, 48, None, 384)


def test_a_description_takes_what_the_machine_does_not_know_from_the_table() -> None:
    spec = MachineSpec(processor="intel_xeon_e5_2680v4", cores=56, memory=256, vendor="genuineintel")
    machine = describe(spec, lookup(spec.processor or ""))
    assert machine is not None
    assert (machine.threads, machine.cores, machine.chips) == (56, 28, 2)
    assert (machine.tdp_watts, machine.year, machine.vendor) == (120, 2016, "intel")
    assert describe(MachineSpec(memory=4)) is None
    unknown = describe(MachineSpec(cores=8, threads_per_core=2, vendor="authenticamd"))
    assert unknown is not None
    assert (unknown.cores, unknown.chips, unknown.vendor, unknown.missing) == (
        4,
        None,
        "amd",
        ("tdp", "memory", "year"),
    )


ROW: dict[str, Any] = {"model": "Intel Xeon E5-2680 v4", "vendor": "intel", "architecture": "broadwell", "source": "s"}


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{**ROW, "source": "unknown"}], "source 'unknown' is not listed"),
        ([ROW, {**ROW, "model": XEON}], "repeats"),
        ([{**ROW, "model": "Intel Xeon"}], "names no processor"),
        ([{**ROW, "cores": 8, "threads": 4}], "fewer threads than cores"),
        ([{**ROW, "tdp_watts": -5}], "tdp_watts"),
        ([{**ROW, "tdp_watts": 1e300}], "tdp_watts"),
        ([{**ROW, "cores": 10**9}], "cores"),
        ([{**ROW, "model": "x" * 5000}], "model"),
        ([{**ROW, "tdp": 120}], "tdp"),
        ([ROW] * 6000, "5000"),
    ],
)
def test_a_damaged_table_is_rejected_with_the_place(rows: list[dict[str, Any]], problem: str) -> None:
    content = json.dumps({"layout": 1, "sources": {"s": "a source"}, "processors": rows}).encode()
    with pytest.raises(ProcessorTableError, match=problem) as error:
        decode_processors(content, "table.json")
    assert error.value.document == "table.json"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"{", b"\xff", b'{"layout": 2, "sources": {}, "processors": [], "instances": []}', b"[" * 10**6],
)
def test_content_that_is_no_table_is_rejected(content: bytes) -> None:
    with pytest.raises(ProcessorTableError):
        decode_processors(content, "table.json")
    with pytest.raises(ProcessorTableError):
        decode_instances(content, "table.json")


def test_the_table_agrees_with_the_published_results_of_spec() -> None:
    path = SHARED / "data" / "public" / "spec_power.csv"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    agreeing, differing = 0, []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            processor = lookup(row["cpu_name"])
            if row["load_pct"] != "0" or processor is None or processor.client:
                continue
            chips = int(row["chips"])
            published = (int(row["cores"]) / chips, int(row["threads"]) / chips, float(row["tdp_w"]))
            if published == (processor.cores, processor.threads, processor.tdp_watts):
                agreeing += 1
            else:
                differing.append(row["machine_id"])
    assert agreeing > 350
    assert len(differing) <= 1  # one published result counts the cores of both chips, not of each chip
