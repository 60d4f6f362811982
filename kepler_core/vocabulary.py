"""The words that everything after a recording speaks: features, feature groups, components.

How an exporter spells them is a metric schema's business (`kepler_core.contracts.MetricSchema`).
Features that are counters are used as rates per second; `bpf_cpu_time_ms` is thus ms per second.
Power is in watts, energy in joules, time in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

OutputType = Literal["AbsPower", "DynPower"]
"""AbsPower: a node's power, idle included. DynPower: a container's power, idle taken away."""

OUTPUT_TYPES: tuple[OutputType, ...] = get_args(OutputType)

RAPL_COMPONENTS = ("package", "core", "uncore", "dram")
PLATFORM_COMPONENTS = ("platform",)
COMPONENTS = RAPL_COMPONENTS + PLATFORM_COMPONENTS

COUNTER_FEATURES = ("cache_miss", "cpu_cycles", "cpu_instructions")
BPF_FEATURES = ("bpf_cpu_time_ms", "bpf_page_cache_hit")
IRQ_FEATURES = ("bpf_block_irq", "bpf_net_rx_irq", "bpf_net_tx_irq")
ACCELERATOR_FEATURES = ("accelerator_intel_qat",)
SYSTEM_FEATURES = ("cpu_scaling_frequency_hertz", "node_info")

FEATURES = COUNTER_FEATURES + BPF_FEATURES + IRQ_FEATURES + ACCELERATOR_FEATURES + SYSTEM_FEATURES

BASIC_FEATURES = COUNTER_FEATURES + BPF_FEATURES
WORKLOAD_FEATURES = BASIC_FEATURES + IRQ_FEATURES + ACCELERATOR_FEATURES

THIRD_PARTY_GROUP = "ThirdParty"

FEATURE_GROUPS: dict[str, tuple[str, ...]] = {
    "CounterOnly": COUNTER_FEATURES,
    "BPFOnly": BPF_FEATURES,
    "BPFIRQ": BPF_FEATURES + IRQ_FEATURES,
    "CounterIRQCombined": COUNTER_FEATURES + IRQ_FEATURES,
    "Basic": BASIC_FEATURES,
    "WorkloadOnly": WORKLOAD_FEATURES,
    "Full": WORKLOAD_FEATURES + SYSTEM_FEATURES,
    "AcceleratorOnly": ACCELERATOR_FEATURES,
}
"""Feature group -> its features. `ThirdParty` is not here: the user names its features."""

GROUP_NAMES = (*FEATURE_GROUPS, THIRD_PARTY_GROUP)

MIN_TIMESTAMPS = 20
"""With fewer usable timestamps nothing can be held out to validate on, so nothing is trained."""

CONSTANT_WATTS = 1e-3
CONSTANT_PART = 1e-4


def is_constant(lowest: float, highest: float) -> bool:
    """Whether a component's power (W) counts as constant: it varies by no more than 1 mW, the wire's
    resolution, or a ten-thousandth of itself, which single precision cannot follow."""
    return highest - lowest <= max(CONSTANT_WATTS, CONSTANT_PART * highest)


_MAIN = ("cpu_instructions", "bpf_cpu_time_ms")
_MAIN_DRAM = ("cache_miss", "bpf_page_cache_hit")


def main_feature(features: Sequence[str], component: str) -> str:
    """The one feature that a curve or a share of `component` is drawn over.

    cpu_instructions where present, else bpf_cpu_time_ms; for dram cache_miss, else
    bpf_page_cache_hit; a group with none of these uses its first feature.
    """
    if not features:
        raise ValueError("a feature group without features has no main feature")
    preferred = (_MAIN_DRAM + _MAIN) if component == "dram" else _MAIN
    for feature in preferred:
        if feature in features:
            return feature
    return features[0]


def group_features(group: str, third_party: Iterable[str] = ()) -> tuple[str, ...]:
    """The features of a feature group; KeyError for a group that does not exist.

    The metrics that the user names (`third_party`) are a group of their own, and belong to
    WorkloadOnly and Full.
    """
    if group == THIRD_PARTY_GROUP:
        return tuple(third_party)
    features = FEATURE_GROUPS[group]
    return (*features, *third_party) if group in ("WorkloadOnly", "Full") else features
