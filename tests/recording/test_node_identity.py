"""Test which series of a recording belong to one node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.command import kepler
from support.exporter_documents import (
    NODE_A,
    NODE_B,
    TIMES,
    Document,
    assert_same,
    counter,
    later,
    machine,
    merged,
    observed,
    series_of,
    variation,
)

from kepler_core.recording import Observations
from kepler_core.recording.findings import findings

ADDRESS = "10.0.0.5:9102"


def power_of(observations: Observations, node: str) -> Any:
    """Return the platform power of a node."""
    code = [stream.node for stream in observations.streams].index(node)
    return observations.power["acpi", "platform"][observations.sample_stream == code]


def kinds(observations: Observations) -> set[str]:
    return {finding.kind for finding in findings(observations.counts)} - {"dynamic_only"}


@pytest.mark.parametrize("label", ["cluster", "region", "tenant", "prometheus", "environment", "some_label"])
@pytest.mark.parametrize("load", [1.0, 1.3])
def test_nodes_of_two_clusters_with_one_address_are_two_nodes(label: str, load: float) -> None:
    first = machine(ADDRESS, containers=NODE_A, **{label: "a"})
    second = machine(ADDRESS, containers=NODE_B, load=load, pod="kepler-2", **{label: "b"})
    for document in (merged(first, second), merged(second, first)):
        observations = observed(document)
        names = {stream.node for stream in observations.streams}
        assert names == {f"{ADDRESS} ({label}=a)", f"{ADDRESS} ({label}=b)"}
        np.testing.assert_allclose(power_of(observations, f"{ADDRESS} ({label}=a)")[1:], 120 * variation(TIMES)[1:])
        np.testing.assert_allclose(
            power_of(observations, f"{ADDRESS} ({label}=b)")[1:], 120 * load * variation(TIMES)[1:]
        )
        assert kinds(observations) == {"nodes_told_apart"}
        assert set(observations.counts.nodes_told_apart) == names


def test_nodes_whose_containers_have_equal_names_are_told_apart_by_their_counters() -> None:
    containers = {"system_processes": 1.0}
    first = machine(ADDRESS, containers=containers, cluster="a")
    second = machine(ADDRESS, containers=containers, cluster="b", load=3.0, start=500.0)
    observations = observed(merged(first, second))
    assert len(observations.streams) == 2
    np.testing.assert_allclose(power_of(observations, f"{ADDRESS} (cluster=b)")[1:], 360 * variation(TIMES)[1:])


def test_one_of_two_clusters_without_energy_does_not_add_usage_to_the_other() -> None:
    first = machine(ADDRESS, containers=NODE_A, cluster="a")
    second = {
        name: series for name, series in machine(ADDRESS, containers=NODE_B, cluster="b").items() if "container" in name
    }
    observations = observed(merged(first, second))
    usage = observations.node_features["bpf_cpu_time_ms"]
    known = np.isfinite(usage) & np.isfinite(observations.power["acpi", "platform"])
    np.testing.assert_allclose(usage[known], 1.5 * variation(TIMES)[1:])


def test_two_pods_with_one_address_and_other_containers_are_two_nodes() -> None:
    first = machine(ADDRESS, containers=NODE_A)
    second = machine(ADDRESS, containers=NODE_B, load=2.0, pod="kepler-2")
    assert {stream.node for stream in observed(merged(first, second)).streams} == {
        f"{ADDRESS} (pod=kepler-1)",
        f"{ADDRESS} (pod=kepler-2)",
    }


def delayed(document: Document, seconds: float) -> Document:
    """Return a recording in which each counter has the value that it had `seconds` earlier.

    A second Prometheus server that scrapes the same counters at other times reports such values.
    """
    for all_series in document.values():
        for series in all_series:
            times, values = (np.array([float(pair[at]) for pair in series["values"]]) for at in (0, 1))
            values = np.interp(times - seconds, times, values)
            series["values"] = [[t, repr(v)] for t, v in zip(times.tolist(), values.tolist(), strict=True)]
    return document


@pytest.mark.parametrize("label", ["prometheus_replica", "replica", "prometheus"])
@pytest.mark.parametrize("seconds", [0.0, 1.3, 2.9])
def test_replicas_of_a_prometheus_server_report_one_node(label: str, seconds: float) -> None:
    first = machine(ADDRESS, **{label: "0"})
    second = delayed(machine(ADDRESS, **{label: "1"}), seconds)
    observations = observed(merged(first, second))
    assert_same(observations, observed(first))
    assert kinds(observations) == {"duplicates"}


def test_replicas_that_scrape_at_other_times_are_not_used_twice() -> None:
    first = machine(ADDRESS, prometheus_replica="0")
    second = later(delayed(machine(ADDRESS, prometheus_replica="1"), -1.0), seconds=1)
    observations = observed(merged(first, second))
    assert_same(observations, observed(first))
    assert kinds(observations) == {"duplicates"}


def test_replicas_of_two_clusters_are_two_nodes() -> None:
    documents = [
        machine(ADDRESS, containers=containers, load=load, cluster=cluster, prometheus_replica=replica)
        for containers, load, cluster in ((NODE_A, 1.0, "a"), (NODE_B, 2.0, "b"))
        for replica in ("0", "1")
    ]
    observations = observed(merged(*documents))
    assert {stream.node for stream in observations.streams} == {f"{ADDRESS} (cluster=a)", f"{ADDRESS} (cluster=b)"}
    assert kinds(observations) == {"nodes_told_apart", "duplicates"}


def test_labels_that_change_with_an_upgrade_are_one_node() -> None:
    first = machine(ADDRESS, controller_revision_hash="1")
    second = later(machine(ADDRESS, controller_revision_hash="2"), seconds=int(TIMES[-1] - TIMES[0]) + 3)
    assert [stream.node for stream in observed(merged(first, second)).streams] == [ADDRESS]


def test_labels_of_the_exporter_itself_do_not_tell_nodes_apart() -> None:
    document = machine(ADDRESS)
    for at, series in enumerate(document["kepler_container_bpf_cpu_time_ms_total"]):
        series["metric"]["new_label"] = str(at)
    for at, series in enumerate(document["kepler_node_package_joules_total"]):
        series["metric"]["other_label"] = str(at)
    assert_same(observed(document), observed(machine(ADDRESS)))


def test_federated_nodes_are_named_by_their_own_address() -> None:
    first = machine("prometheus:9090", containers=NODE_A, exported_instance="node-a:9102")
    second = machine("prometheus:9090", containers=NODE_B, load=2.0, exported_instance="node-b:9102")
    observations = observed(merged(first, second))
    assert {stream.node for stream in observations.streams} == {"node-a:9102", "node-b:9102"}
    np.testing.assert_allclose(power_of(observations, "node-b:9102")[1:], 240 * variation(TIMES)[1:])
    assert kinds(observations) == {"nodes_told_apart"}


def test_the_machine_name_on_energy_metrics_only_does_not_part_usage_from_energy() -> None:
    document = machine(ADDRESS)
    for name, all_series in document.items():
        for series in all_series if "joules" in name else ():
            series["metric"]["exported_instance"] = "node-a"
    assert_same(observed(document), observed(machine(ADDRESS)))


def with_own_instance(document: Document, node: str) -> Document:
    """Return a recording in which only the energy metrics have the instance label `node`."""
    for name, all_series in document.items():
        for series in all_series if "joules" in name else ():
            series["metric"]["instance"] = node
    return document


def test_usage_and_energy_of_the_only_node_are_joined() -> None:
    observations = observed(with_own_instance(machine(ADDRESS), "worker-1"))
    alone = observed(machine(ADDRESS))
    assert_same(observations, alone)
    assert kinds(observations) == {"joined_nodes"}
    assert list(observations.counts.joined_nodes) == ["worker-1"]


@pytest.mark.parametrize("third", ["separated", "whole"])
def test_usage_and_energy_of_several_nodes_are_named_and_not_joined(third: str, tmp_path: Path) -> None:
    second = machine("10.0.0.6:9102", containers=NODE_B)
    if third == "separated":
        second = with_own_instance(second, "worker-2")
    document = merged(with_own_instance(machine(ADDRESS, containers=NODE_A), "worker-1"), second)
    observations = observed(document)
    assert kinds(observations) == {"nodes_without_energy", "nodes_without_usage"}
    assert ADDRESS in observations.counts.nodes_without_energy
    assert "worker-1" in observations.counts.nodes_without_usage
    known = np.isfinite(observations.power["acpi", "platform"])
    usable = known & np.isfinite(observations.node_features["bpf_cpu_time_ms"])
    assert usable.any() == (third == "whole")
    if third == "separated":
        path = tmp_path / "recording.json"
        path.write_text(json.dumps(document))
        validated = kepler("validate", str(path))
        assert validated.returncode == 1
        assert "honor_labels" in validated.stdout
        assert "worker-2" in validated.stdout


def test_usage_and_energy_at_different_times_are_not_joined() -> None:
    document = with_own_instance(machine(ADDRESS), "worker-1")
    energy = later({name: series for name, series in document.items() if "joules" in name})
    observations = observed({**document, **energy})
    assert kinds(observations) == {"nodes_without_energy", "nodes_without_usage"}


def test_usage_of_two_clusters_is_not_joined_with_the_energy_of_one() -> None:
    documents = [
        with_own_instance(machine(ADDRESS, containers=containers, cluster=cluster, load=load), "worker-1")
        for containers, cluster, load in ((NODE_A, "a", 1.0), (NODE_B, "b", 3.0))
    ]
    observations = observed(merged(*documents))
    assert kinds(observations) == {"nodes_told_apart", "nodes_without_energy", "nodes_without_usage"}


def guest_and_host(guests: dict[str, tuple[str, float]], job: str = "vm") -> Document:
    """Return a recording of the exporters in several virtual machines (guests), and of the exporter on their host.

    `guests` maps the instance label of each guest to the id of its virtual machine on the host, and to its load.
    """
    document: Document = {}
    for guest, (vm, load) in guests.items():
        document.setdefault("kepler_process_bpf_cpu_time_ms_total", []).extend(
            series_of({"instance": guest, "job": job, "pid": str(pid)}, TIMES, counter(500.0 * load, TIMES))
            for pid in (1, 2)
        )
        document.setdefault("kepler_vm_package_joules_total", []).extend(
            series_of(
                {"instance": "host:9100", "job": "metal", "vm_id": vm, "mode": mode},
                TIMES,
                counter(watts * load, TIMES),
            )
            for mode, watts in (("idle", 10.0), ("dynamic", 20.0))
        )
    document["kepler_process_bpf_cpu_time_ms_total"].append(
        series_of({"instance": "host:9100", "job": "metal", "pid": "9"}, TIMES, counter(9000.0, TIMES))
    )
    return document


GUESTS = {"vm-1:9100": ("machine-qemu-1", 1.0), "vm-2:9100": ("machine-qemu-2", 3.0)}
VM_OF = {guest: vm for guest, (vm, _) in GUESTS.items()}


@pytest.mark.parametrize("job", ["vm", "guests"])
def test_named_guests_are_joined_with_their_virtual_machines(job: str) -> None:
    observations = observed(guest_and_host(GUESTS, job), use_vm_metrics=True, vm_guests=VM_OF)
    assert {stream.node for stream in observations.streams} == set(GUESTS)
    for code, stream in enumerate(observations.streams):
        load = GUESTS[stream.node][1]
        of_guest = observations.sample_stream == code
        np.testing.assert_allclose(
            observations.power["rapl-sysfs", "package"][of_guest][1:], 30 * load * variation(TIMES)[1:]
        )
        np.testing.assert_allclose(
            observations.node_features["bpf_cpu_time_ms"][of_guest][1:], 1000 * load * variation(TIMES)[1:]
        )
    assert not observations.counts.guests_without_vm


@pytest.mark.parametrize("job", ["vm", "guests"])
def test_guests_that_the_user_does_not_name_are_candidates(job: str) -> None:
    observations = observed(guest_and_host(GUESTS, job), use_vm_metrics=True)
    assert set(observations.counts.guests_without_vm) == {*VM_OF, *VM_OF.values()}
    assert {finding.severity for finding in findings(observations.counts)} == {"error"}


def test_named_guests_that_the_recording_lacks_are_counted() -> None:
    observations = observed(
        guest_and_host(GUESTS), use_vm_metrics=True, vm_guests={"vm-1:9100": "machine-qemu-9", "vm-9": "machine-qemu-2"}
    )
    assert set(observations.counts.guests_without_vm) == {"machine-qemu-9", "vm-9"}


def test_validate_joins_guests_by_an_option(tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    path.write_text(json.dumps(guest_and_host(GUESTS)))
    unjoined = kepler("validate", str(path), "--vm")
    assert unjoined.returncode == 1
    assert "vm-2:9100" in unjoined.stdout
    assert "machine-qemu-2" in unjoined.stdout
    assert "--vm-guest" in unjoined.stdout
    options = [word for guest, vm in VM_OF.items() for word in ("--vm-guest", f"{guest}={vm}")]
    joined = kepler("validate", str(path), "--json", *options)
    assert not json.loads(joined.stdout)["findings"]
    assert {node["node"] for node in json.loads(joined.stdout)["nodes"]} == set(GUESTS)
    malformed = kepler("validate", str(path), "--vm-guest", "vm-1:9100")
    assert malformed.returncode == 2
    assert "INSTANCE=VM_ID" in malformed.stderr


def test_train_names_the_candidates_if_nothing_can_be_trained(tmp_path: Path) -> None:
    path = tmp_path / "recording.json"
    path.write_text(json.dumps(guest_and_host(GUESTS)))
    setting = ("--set", "use_vm_metrics=true")
    trained = kepler("train", "quickstart", "-i", str(path), "-s", str(tmp_path / "store"), *setting)
    assert trained.returncode == 1
    assert "machine-qemu-2" in trained.stderr
    assert "--vm-guest INSTANCE=VM_ID" in trained.stderr
    assert not (tmp_path / "store" / "quickstart").exists()
