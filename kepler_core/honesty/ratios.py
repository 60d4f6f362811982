"""Ratios of features. They show which kind of work a machine does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from kepler_core.arrays import FloatArray

Ratio = Literal["instructions_per_cycle", "misses_per_instruction", "cycles_per_cpu_ms"]

RATIO_FEATURES: Mapping[Ratio, tuple[str, str]] = {
    "instructions_per_cycle": ("cpu_instructions", "cpu_cycles"),
    "misses_per_instruction": ("cache_miss", "cpu_instructions"),
    "cycles_per_cpu_ms": ("cpu_cycles", "bpf_cpu_time_ms"),
}
"""Maps each ratio to its numerator and its denominator."""


def ratios(columns: Mapping[str, FloatArray]) -> dict[Ratio, FloatArray]:
    """Return each ratio whose two features are in `columns`, shape (samples,). With denominator 0, a ratio is 0."""
    return {
        name: np.divide(columns[top], columns[bottom], out=np.zeros(len(columns[top])), where=columns[bottom] > 0)
        for name, (top, bottom) in RATIO_FEATURES.items()
        if top in columns and bottom in columns
    }
