"""The vocabulary of Kepler Core: names of features, feature groups, components and output types.

A metric schema (`kepler_core.contracts.MetricSchema`) maps an exporter's metrics to these names. Features
that are counters are used as rates per second: `bpf_cpu_time_ms` is in milliseconds of CPU time per second.
Power is in watts, energy in joules, time in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

OutputType = Literal["AbsPower", "DynPower"]
"""AbsPower: the whole power of a node. DynPower: a container's power, without the node's background power."""

OUTPUT_TYPES: tuple[OutputType, ...] = get_args(OutputType)

Target = Literal["machine", "kepler", "capacity", "marginal"]
"""What the watts are that models are trained on.

machine: the power of a whole machine, as a meter measures it. All other targets are the power of a virtual machine,
which no meter measures. It is a part of the host's power. The module `kepler_core.pairs.targets` defines this part.
"""

TARGETS: tuple[Target, ...] = get_args(Target)

VM_SOURCES: Mapping[str, str] = {"kepler": "vm-kepler", "capacity": "vm-capacity", "marginal": "vm-marginal"}
"""For each target, the energy source of its models. Only the targets of virtual machines have such a source."""

RAPL_COMPONENTS = ("package", "core", "uncore", "dram")
PLATFORM_COMPONENTS = ("platform",)
COMPONENTS = RAPL_COMPONENTS + PLATFORM_COMPONENTS

ZONE_OF_COMPONENT = {"package": "package", "core": "core", "uncore": "uncore", "dram": "dram", "platform": "psys"}
"""For each component, its power zone in Linux (drivers/powercap/intel_rapl_common.c). Kepler uses these names."""


def in_component_order(components: Iterable[str]) -> tuple[str, ...]:
    """Return components in the order of `COMPONENTS`. Unknown components come last, in the order of the argument."""
    position = {component: at for at, component in enumerate(COMPONENTS)}
    return tuple(sorted(components, key=lambda component: position.get(component, len(position))))


COUNTER_FEATURES = ("cache_miss", "cpu_cycles", "cpu_instructions")
CPU_TIME_FEATURES = ("bpf_cpu_time_ms",)
BPF_FEATURES = (*CPU_TIME_FEATURES, "bpf_page_cache_hit")
IRQ_FEATURES = ("bpf_block_irq", "bpf_net_rx_irq", "bpf_net_tx_irq")
ACCELERATOR_FEATURES = ("accelerator_intel_qat",)
SYSTEM_FEATURES = ("cpu_scaling_frequency_hertz", "node_info")
UNGROUPED_FEATURES = ("cpu_ref_cycles", "task_clock_ms")
"""Features that some exporters report and no feature group contains.

Some releases of Kepler report the values of cpu_cycles as cpu_ref_cycles. task_clock_ms is CPU time like
bpf_cpu_time_ms, but measured with another counter.
"""
HOST_FEATURES = (
    "cpu_user_ms",
    "cpu_system_ms",
    "cpu_idle_ms",
    "cpu_iowait_ms",
    "cpu_steal_ms",
    "cpu_guest_ms",
    "context_switches",
    "interrupts",
    "page_faults",
    "memory_used_bytes",
    "disk_read_bytes",
    "disk_written_bytes",
    "network_received_bytes",
    "network_sent_bytes",
)
"""Features that a Linux kernel reports for a whole machine (/proc).

cpu_user_ms contains the modes user and nice, without the time of guests. cpu_guest_ms contains the modes guest and
guest_nice. cpu_system_ms contains the modes system, irq and softirq. memory_used_bytes is a gauge: MemTotal −
MemAvailable. All other features are counters, so they are used as rates per second. bpf_cpu_time_ms of a machine is
cpu_user_ms + cpu_guest_ms + cpu_system_ms. Disk features count whole disks (no partitions and no loop, RAM or
device-mapper devices). Network features count all interfaces except the loopback interface.
"""
CPU_FEATURES = ("bpf_cpu_time_ms", "cpu_cycles", "cpu_instructions")
"""The features that rise if the CPUs work more and draw more power."""

FEATURES = (
    COUNTER_FEATURES
    + BPF_FEATURES
    + IRQ_FEATURES
    + ACCELERATOR_FEATURES
    + SYSTEM_FEATURES
    + UNGROUPED_FEATURES
    + HOST_FEATURES
)

GAUGES = (*SYSTEM_FEATURES, "memory_used_bytes")
"""Features that are gauges: values of a node at one moment. All other features are counters."""

PREVIOUS_SUFFIX = "_previous"
"""Suffix of a feature that has the value of another feature at the previous timestamp, e.g. `cpu_cycles_previous`."""

BASIC_FEATURES = COUNTER_FEATURES + BPF_FEATURES
WORKLOAD_FEATURES = BASIC_FEATURES + IRQ_FEATURES + ACCELERATOR_FEATURES

THIRD_PARTY_GROUP = "ThirdParty"

FEATURE_GROUPS: dict[str, tuple[str, ...]] = {
    "CounterOnly": COUNTER_FEATURES,
    "CPUTime": CPU_TIME_FEATURES,
    "BPFOnly": BPF_FEATURES,
    "BPFIRQ": BPF_FEATURES + IRQ_FEATURES,
    "CounterIRQCombined": COUNTER_FEATURES + IRQ_FEATURES,
    "Basic": BASIC_FEATURES,
    "WorkloadOnly": WORKLOAD_FEATURES,
    "Full": WORKLOAD_FEATURES + SYSTEM_FEATURES,
    "AcceleratorOnly": ACCELERATOR_FEATURES,
}
"""Maps each feature group to its features. `ThirdParty` is not included, because the user names its features.

The groups of `REDUCED_GROUPS` are not included, because they replace other groups.
"""

OPTIONAL_FEATURES = ("bpf_page_cache_hit",)
"""Features that many recordings lack: Kepler measures page cache hits only in some of its versions."""

REDUCED_GROUPS = {
    "BPFOnly": "CPUTime",
    **{group: f"{group}NoPageCache" for group in ("BPFIRQ", "Basic", "WorkloadOnly", "Full")},
}
"""Some feature groups have an optional feature. Each of them is mapped to the group without this feature. If the data
lacks the feature, models of the second group are trained."""

_WHOLE_GROUPS = {reduced: group for group, reduced in REDUCED_GROUPS.items() if reduced not in FEATURE_GROUPS}

GROUP_NAMES = (*FEATURE_GROUPS, *_WHOLE_GROUPS, THIRD_PARTY_GROUP)

MIN_TIMESTAMPS = 20
"""Minimum number of usable timestamps for a training. With fewer timestamps, too few would be left to test the
models."""

CONSTANT_WATTS = 1e-3
"""Power that varies by at most this number of watts is constant: Kepler's protocol has a resolution of 1 mW."""
CONSTANT_FRACTION = 1e-4
"""Power counts as constant if it varies by at most this fraction of its highest value. A model in single precision
cannot reproduce smaller variations."""


RARE_MAXIMUM = 1.0
"""A feature is rare if it is at most this value in all training rows: for a counter, one event per second.

A weight on a rare feature has no sound basis: the feature hardly changed in training, and may be a hundred times higher
later. `TrainingRows.scale` is 1 for a feature that is always 0, so such a feature is rare, too."""


def is_constant(lowest: float, highest: float) -> bool:
    """Return whether a component's power counts as constant.

    `lowest` and `highest` are the lowest and the highest measured power in watts. Power is constant if their
    difference is at most `CONSTANT_WATTS`, or at most `CONSTANT_FRACTION` of `highest`.
    """
    return highest - lowest <= max(CONSTANT_WATTS, CONSTANT_FRACTION * highest)


_MAIN = ("cpu_instructions", "bpf_cpu_time_ms")
_MAIN_DRAM = ("cache_miss", "bpf_page_cache_hit")


def main_feature(features: Sequence[str], component: str) -> str:
    """Return the main feature of a component: the one that determines its power most.

    Models with a single feature use the main feature, and a component's power is divided among containers in
    proportion to it. For dram, the main feature is the first of these names that is in `features`: cache_miss,
    bpf_page_cache_hit, cpu_instructions, bpf_cpu_time_ms. For all other components, it is cpu_instructions or, if
    `features` lacks it, bpf_cpu_time_ms. If `features` has none of these names, the main feature is the first of
    `features`. Raises `ValueError` if `features` is empty.
    """
    if not features:
        raise ValueError("a feature group without features has no main feature")
    preferred = (_MAIN_DRAM + _MAIN) if component == "dram" else _MAIN
    for feature in preferred:
        if feature in features:
            return feature
    return features[0]


LOAD_FEATURES = (*_MAIN, "cpu_cycles")
"""The features that describe a node's load, the best one first."""


def load_feature(features: Sequence[str]) -> str:
    """Return the feature that says most about a node's load, whichever component is estimated.

    It is the first of cpu_instructions, bpf_cpu_time_ms and cpu_cycles that `features` has, or else the first
    feature. A component's main feature may say little about load: the page cache hits of an idle machine can
    exceed those of a busy one. Raises `ValueError` if `features` is empty.
    """
    if not features:
        raise ValueError("a feature group without features has no load feature")
    return next((feature for feature in LOAD_FEATURES if feature in features), features[0])


_EBPF = BPF_FEATURES + IRQ_FEATURES
_DECISIVE = {_EBPF: ("bpf_cpu_time_ms",), COUNTER_FEATURES: ("cpu_cycles", "cpu_instructions")}
"""The features of each part of Kepler (eBPF programs, hardware counters), and those of them that are above 0 whenever a
CPU runs."""


def dead_features(moves: Mapping[str, bool]) -> tuple[str, ...]:
    """Return the features that are always 0 because a part of Kepler measures nothing.

    `moves` maps each known feature to whether any of its values is above 0. A CPU that runs uses cycles, instructions
    and CPU time. If one of these features is above 0 and another is always 0, a part of Kepler does not work. Either
    the eBPF programs were not loaded (e.g. on real-time kernels), or there are no hardware counters (e.g. in virtual
    machines). In this case, the zeros of this part mean nothing.
    """
    runs = any(moves.get(feature, False) for features in (*_DECISIVE.values(), ("cache_miss",)) for feature in features)
    if not runs:
        return ()
    return tuple(
        feature
        for features, decisive in _DECISIVE.items()
        if any(not moves.get(feature, True) for feature in decisive)
        for feature in features
        if not moves.get(feature, True)
    )


def group_features(group: str, third_party: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the features of a feature group.

    The metrics that the user names (`third_party`) form the group ThirdParty, and are added to WorkloadOnly
    and Full. Raises `KeyError` for a group that does not exist.
    """
    if group == THIRD_PARTY_GROUP:
        return tuple(third_party)
    whole = _WHOLE_GROUPS.get(group, group)
    features = FEATURE_GROUPS[whole]
    if whole != group:
        features = tuple(feature for feature in features if feature not in OPTIONAL_FEATURES)
    return (*features, *third_party) if whole in ("WorkloadOnly", "Full") else features


def reduced_group(group: str, missing: Iterable[str]) -> str | None:
    """Return the feature group that replaces `group` in a training whose data lacks the features `missing`.

    Return None if the group has no replacement, or if a missing feature is not optional.
    """
    return REDUCED_GROUPS.get(group) if set(missing) <= set(OPTIONAL_FEATURES) else None
