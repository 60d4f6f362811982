"""The rules of `kepler-model doctor`: one function for each problem that Kepler 0.10 or later can have.

Source of the facts: Kepler's code, v0.10.0 to v0.11.4 and its main branch of August 2026 (internal/device,
internal/monitor, internal/resource, internal/exporter/prometheus/collector).
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import numpy as np

from kepler_core import kepler_names as names
from kepler_core.arrays import FloatArray
from kepler_core.doctor.diagnosis import Found, Rule
from kepler_core.messages import printable
from kepler_core.pairs.host_node import HostNode, by_component
from kepler_core.pairs.increases import increases, on_grid
from kepler_core.pairs.usage_lag import usage_of_windows
from kepler_core.recording.columns import Metric

LEAST_WATTS = 0.01
"""A zone of a real machine draws more watts than this. Kepler's fake meter counts about 0.15 mJ per reading."""
OTHER_WINDOW = 0.05
"""If Kepler's gauge of watts and its counter of joules differ by more than this fraction, they cover different windows.
A window is the time between two measurements of Kepler."""
OFTEN = 0.2
"""The rule `disturbed-windows` reports a node if its gauge and its counter differ in more than this fraction of the
readings."""
FEWEST_READINGS = 5
_FAKE_PATH = re.compile(r"/energy_[a-z]+(-\d+)?$")
"""Matches the path of a zone of Kepler's fake meter. A powercap zone's path is a folder such as …/intel-rapl:0."""
_ESTIMATE = re.compile(r"kepler-core:(model|formula):[^/]*")
"""Matches the end of the path of a zone that Kepler Core's meter publishes (`kepler_core.metering.Provenance.slug`)."""
_RELEASE_WITH_LAG = re.compile(r"v?0\.(10|11)\.\d+")
_HYPERVISORS = re.compile(r"qemu|kvm|virtqemud")
_SHOWN = 3


def fake_meter(node: HostNode) -> Found | None:
    """Find Kepler's fake meter, which is made for development and has random values."""
    joules = node.metric(names.NODE_JOULES)
    paths = [labels.get("path", "") for labels in _labels(joules)]
    fake = sorted({path for path in paths if _FAKE_PATH.search(path)})
    if fake:
        seen = f"zones are read from {printable(fake[0], 80)}, which is a path of Kepler's fake meter"
    else:
        watts = {zone: _median_watts(metric) for zone, metric in _zones(joules).items()}
        small = {zone: value for zone, value in watts.items() if 0 < value < LEAST_WATTS}
        if not small or len(small) < len([value for value in watts.values() if value > 0]):
            return None
        zone, value = max(small.items(), key=lambda item: item[1])
        seen = f"no zone draws more than {1e6 * value:.0f} µW ({zone}), as Kepler's fake meter reports"
    advice = (
        "the energy is random: switch the fake meter off (dev: {fake-cpu-meter: {enabled: false}}; "
        "KEPLER_FAKE_CPU_METER; in later versions cpu.preferredMeters), and if the machine has no meter, use a model "
        "(docs/which-kepler.md)"
    )
    return Found(seen, advice)


def estimated_power(node: HostNode) -> Found | None:
    """Find power that Kepler Core's meter has estimated with a model or formula."""
    for labels in _labels(node.metric(names.NODE_JOULES)):
        estimate = _ESTIMATE.search(labels.get("path", ""))
        if estimate is not None:
            return Found(
                f"the power comes from `kepler-model serve meter` ({printable(estimate.group(), 80)})",
                "it is an estimate and no measurement: do not train models from it",
            )
    return None


def zones_summed(node: HostNode) -> Found | None:
    """Find series of energy that are sums over zones, because a query or a recording rule added the zones up."""
    without = [labels for labels in _labels(node.metric(names.NODE_JOULES)) if not labels.get("zone")]
    if not without:
        return None
    return Found(
        f"{len(without)} series of {names.NODE_JOULES} have no label zone: a query or recording rule has added the "
        "zones up",
        "zones overlap (package contains core and uncore, psys contains package), so that sums count energy twice: "
        "record the metric as Kepler exports it, with `by (zone)` in every sum",
    )


def missing_zones(node: HostNode) -> Found | None:
    """Find a node without the zone package."""
    zones = {labels.get("zone", "") for labels in _labels(node.metric(names.NODE_JOULES))} - {""}
    if not zones or "package" in zones:
        return None
    return Found(
        f"no zone package; the zones are {', '.join(sorted(zones))}",
        "check rapl.zones in Kepler's configuration (empty means all), and that /sys/class/powercap has intel-rapl:0; "
        "with a hwmon sensor, train from the energy source that the zone's label names",
    )


def empty_node_name(node: HostNode) -> Found | None:
    """Find metrics without the name of the node."""
    labels = _labels(node.metric(names.NODE_JOULES))
    if not labels or any(one.get("node_name") for one in labels):
        return None
    return Found(
        f"{names.NODE_JOULES} has no label node_name",
        "start Kepler with --kube.node-name=NAME (later versions use the host name by themselves); Kepler Core takes "
        "the label instance instead",
    )


def release_lag(node: HostNode) -> Found | None:
    """Find a release of Kepler that calculates watts with the CPU usage of the previous window."""
    version = next((v for labels in _labels(node.metric(names.BUILD_INFO)) if (v := labels.get("version", ""))), "")
    seen = None
    if _RELEASE_WITH_LAG.fullmatch(version):
        seen = f"version {printable(version, 40)} calculates watts with the CPU usage of the previous window"
    elif not version and _lags(node):
        seen = f"{names.USAGE_RATIO} follows the CPU seconds of the processes one reading later"
    if seen is None:
        return None
    return Found(
        seen,
        "active, idle and workload watts are wrong for one window after each change of the load: use joules over "
        "minutes, or train with `kepler-model train --host`, which uses the usage of the right window (a later Kepler "
        "has no lag)",
    )


def no_power(node: HostNode) -> Found | None:
    """Find an installation of Kepler that runs, but reports no power at all."""
    if node.metric(names.BUILD_INFO) is None or node.metric(names.NODE_JOULES) is not None:
        return None
    return Found(
        f"{names.BUILD_INFO} is there, but no {names.NODE_JOULES}: each refresh of Kepler fails",
        "Kepler needs every zone of the meter and every /proc/PID/exe: run it as root (privileged, hostPID: true, "
        "CAP_SYS_PTRACE), and look for 'permission denied' in its log",
    )


def power_with_gaps(node: HostNode) -> Found | None:
    """Find readings without power, although Kepler answered."""
    info, joules = node.metric(names.BUILD_INFO), node.metric(names.NODE_JOULES)
    if info is None or joules is None:
        return None
    answered, measured = np.unique(info.timestamps), np.unique(joules.timestamps)
    missing = np.setdiff1d(answered, measured)
    if len(missing) == 0:
        return None
    return Found(
        f"{len(missing)} of {len(answered)} readings have no power, although Kepler answered",
        "a zone or a process could not be read at these times: look for errors in Kepler's log",
    )


def guests_typed_as_containers(node: HostNode) -> Found | None:
    """Find virtual machines of KubeVirt that Kepler mistakes for containers."""
    guests = {
        labels.get("comm", "")
        for labels in _labels(node.metric(names.PROCESS_SECONDS))
        if labels.get("type") == "container" and _HYPERVISORS.search(labels.get("comm", ""))
    }
    if not guests:
        return None
    return Found(
        f"processes named {', '.join(sorted(guests)[:_SHOWN])} have the type container: virtual machines in pods, as "
        "of KubeVirt",
        "there are no kepler_vm_* series for them: use the process series with this comm, or the pod virt-launcher-…",
    )


def shared_vm_id(node: HostNode) -> Found | None:
    """Find virtual machines that share the same id."""
    pids: dict[str, set[str]] = defaultdict(set)
    for labels in _labels(node.metric(names.PROCESS_SECONDS)):
        if labels.get("vm_id") and labels.get("type", "vm") == "vm":
            pids[labels["vm_id"]].add(labels.get("pid", ""))
    shared = {vm: found for vm, found in pids.items() if len(found) > 1}
    if not shared:
        return None
    vm, found = max(shared.items(), key=lambda item: len(item[1]))
    return Found(
        f"{len(found)} processes have the vm_id {printable(vm, 60)}",
        "Kepler treats them as one virtual machine: start each QEMU with its own -uuid or -name, e.g. by libvirt",
    )


def counter_wraps(node: HostNode) -> Found | None:
    """Find zones whose energy counter falls back to 0 because the hardware's counter reached its maximum."""
    falls = Counter(labels.get("zone", "") for labels in _falling(node.metric(names.NODE_JOULES)))
    if not falls or _falling(node.metric(names.NODE_ACTIVE_JOULES)):
        return None  # the counter of active energy falls, too, so Kepler was restarted
    shown = ", ".join(f"{zone} {count} times" for zone, count in sorted(falls.items()))
    return Found(
        f"{names.NODE_JOULES} falls back to 0 at the maximum of the hardware counter ({shown})",
        f"increase() and rate() of Prometheus lose energy there: add {names.NODE_ACTIVE_JOULES} and "
        f"{names.NODE_IDLE_JOULES} instead, as Kepler Core does; these counters do not fall back",
    )


def disturbed_windows(node: HostNode) -> Found | None:
    """Find successive readings between which Kepler measured again, e.g. because another program read the metrics."""
    gauge, joules = node.metric(names.NODE_WATTS), node.metric(names.NODE_JOULES)
    if gauge is None or joules is None:
        return None
    others = total = 0
    watts_of = by_component(gauge)
    for zone, metric in by_component(joules).items():
        if zone not in watts_of:
            continue
        grid = np.unique(metric.timestamps)
        if len(grid) < 2:
            continue
        mean = increases(metric, grid) / np.diff(grid)
        watts = on_grid(watts_of[zone], grid)[1:]
        known = np.isfinite(mean) & np.isfinite(watts) & (mean > 0)
        others += int(np.count_nonzero(np.abs(watts[known] - mean[known]) > OTHER_WINDOW * mean[known]))
        total += int(np.count_nonzero(known))
    if total < FEWEST_READINGS or others <= OFTEN * total:
        return None
    return Found(
        f"in {others} of {total} readings, {names.NODE_WATTS} differs from the energy since the reading before by "
        f"more than {100 * OTHER_WINDOW:.0f} %: Kepler also measured in between",
        "watts cover only the last window: use joules; for recordings, set monitor: {interval: 0s} in Kepler's "
        "configuration, let only one reader scrape it, and record each scrape",
    )


def _lags(node: HostNode) -> bool:
    ratio = node.metric(names.USAGE_RATIO)
    if ratio is None or node.metric(names.PROCESS_SECONDS) is None or node.metric(names.CPU_INFO) is None:
        return False
    grid = np.unique(ratio.timestamps)
    if len(grid) < FEWEST_READINGS:
        return False
    shares = node.cpu_seconds(grid) / (node.cpus() * np.diff(grid))
    return usage_of_windows(on_grid(ratio, grid)[1:], shares)[1]


def _labels(metric: Metric | None) -> list[dict[str, str]]:
    """Return the labels of each series that has a sample."""
    return [] if metric is None else [dict(metric.labels[at]) for at in np.unique(metric.series)]


def _zones(metric: Metric | None) -> dict[str, Metric]:
    return {} if metric is None else by_component(metric)


def _median_watts(metric: Metric) -> float:
    grid = np.unique(metric.timestamps)
    if len(grid) < 2:
        return 0.0
    watts: FloatArray = increases(metric, grid) / np.diff(grid)
    known = watts[np.isfinite(watts)]
    return float(np.median(known)) if len(known) else 0.0


def _falling(metric: Metric | None) -> list[dict[str, str]]:
    """Return the labels of each series whose value falls, once for each fall."""
    if metric is None:
        return []
    falls = (metric.series[1:] == metric.series[:-1]) & (np.diff(metric.values) < 0)
    return [dict(metric.labels[at]) for at in metric.series[1:][falls]]


RULES: tuple[Rule, ...] = (
    Rule("fake-meter", "error", fake_meter),
    Rule("no-power", "error", no_power),
    Rule("zones-summed", "error", zones_summed),
    Rule("missing-zones", "warning", missing_zones),
    Rule("power-with-gaps", "warning", power_with_gaps),
    Rule("disturbed-windows", "warning", disturbed_windows),
    Rule("guests-as-containers", "warning", guests_typed_as_containers),
    Rule("shared-vm-id", "warning", shared_vm_id),
    Rule("estimated-power", "note", estimated_power),
    Rule("release-lag", "note", release_lag),
    Rule("counter-wraps", "note", counter_wraps),
    Rule("empty-node-name", "note", empty_node_name),
)
