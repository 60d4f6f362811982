"""The features that can only raise the power of a machine: a higher value never means less power."""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.vocabulary import COUNTER_FEATURES

RISING_FEATURES = (*COUNTER_FEATURES, "cpu_ref_cycles", "bpf_cpu_time_ms", "task_clock_ms")
"""The features that count work of the CPUs and of the memory. More work needs more power.

Page cache hits and interrupts are not in this list, because they do not count work. For example, more page cache hits
at the same CPU time can mean that the CPUs wait more and need less power.
"""


def rising(features: Sequence[str], names: Sequence[str] = RISING_FEATURES) -> list[int]:
    """Return scikit-learn's `monotonic_cst`: 1 for each feature in `names`, and 0 for each other feature."""
    return [int(feature in names) for feature in features]
