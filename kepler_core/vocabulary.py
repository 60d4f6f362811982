"""The vocabulary of Kepler Core: features, feature groups, components and output types.

A metric schema (`kepler_core.contracts.MetricSchema`) maps an exporter's metrics to these words. Features
that are counters are used as rates per second: `bpf_cpu_time_ms` is in milliseconds per second. Power is in
watts, energy in joules, time in Unix seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

OutputType = Literal["AbsPower", "DynPower"]
"""AbsPower: the whole power of a node. DynPower: the power of a container without the node's idle power."""

OUTPUT_TYPES: tuple[OutputType, ...] = get_args(OutputType)

RAPL_COMPONENTS = ("package", "core", "uncore", "dram")
PLATFORM_COMPONENTS = ("platform",)
COMPONENTS = RAPL_COMPONENTS + PLATFORM_COMPONENTS


def in_component_order(components: Iterable[str]) -> tuple[str, ...]:
    """Return components in the order of `COMPONENTS`; any others follow in the order given."""
    position = {component: at for at, component in enumerate(COMPONENTS)}
    return tuple(sorted(components, key=lambda component: position.get(component, len(position))))


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
"""Feature group -> its features. `ThirdParty` is missing because the user names its features."""

GROUP_NAMES = (*FEATURE_GROUPS, THIRD_PARTY_GROUP)

MIN_TIMESTAMPS = 20
"""Fewest usable timestamps to train on. Of fewer, too few could be held out for validation."""

CONSTANT_WATTS = 1e-3
"""Resolution of power in Kepler's protocol."""
CONSTANT_FRACTION = 1e-4
"""Smallest variation that a model in single precision can reproduce, as a fraction of the power."""


def is_constant(lowest: float, highest: float) -> bool:
    """Return whether a component's power counts as constant.

    `lowest` and `highest` are the limits of the measured power in watts. They may differ by `CONSTANT_WATTS`
    or by `CONSTANT_FRACTION` of the highest power, whichever is more.
    """
    return highest - lowest <= max(CONSTANT_WATTS, CONSTANT_FRACTION * highest)


_MAIN = ("cpu_instructions", "bpf_cpu_time_ms")
_MAIN_DRAM = ("cache_miss", "bpf_page_cache_hit")


def main_feature(features: Sequence[str], component: str) -> str:
    """Return the feature that says most about a component's power.

    Models of one feature use it, and containers share a component's power in proportion to it. It is
    the first of cpu_instructions and bpf_cpu_time_ms that `features` has; for dram, cache_miss and
    bpf_page_cache_hit come before these. If `features` has none of them, it is the first feature. Raises
    `ValueError` if `features` is empty.
    """
    if not features:
        raise ValueError("a feature group without features has no main feature")
    preferred = (_MAIN_DRAM + _MAIN) if component == "dram" else _MAIN
    for feature in preferred:
        if feature in features:
            return feature
    return features[0]


def group_features(group: str, third_party: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the features of a feature group.

    The metrics that the user names (`third_party`) form the group ThirdParty, and are added to WorkloadOnly
    and Full. Raises `KeyError` for a group that does not exist.
    """
    if group == THIRD_PARTY_GROUP:
        return tuple(third_party)
    features = FEATURE_GROUPS[group]
    return (*features, *third_party) if group in ("WorkloadOnly", "Full") else features
