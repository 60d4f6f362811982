"""Computes the power that Kepler 0.7 reports for a reply of the estimator, as observed with Kepler's client code.

`unsigned_milliwatts` shows how Kepler stores watts, including watts that Kepler computes from weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray


@attrs.frozen
class KeplerPowers:
    """Milliwatts of each process, shape (rows,)."""

    package: FloatArray
    core: FloatArray
    uncore: FloatArray
    dram: FloatArray

    @property
    def total(self) -> FloatArray:
        return self.package + self.dram


def kepler_powers(powers: Mapping[str, Sequence[float]], rows: int) -> KeplerPowers:
    """Return the power that Kepler computes from the member `powers` of a reply.

    Kepler truncates watts to whole milliwatts and counts a missing component as 0 W. It raises the package power to
    at least core plus uncore power. If core power is 0 but uncore power is not, core becomes package minus uncore.
    """
    milliwatts = {
        name: np.floor(np.array(powers.get(name, [0.0] * rows), dtype=np.float64) * 1000 + 1e-6)
        for name in ("package", "core", "uncore", "dram")
    }
    core, uncore = milliwatts["core"], milliwatts["uncore"]
    package = np.maximum(milliwatts["package"], core + uncore)
    core = np.where((core == 0) & (uncore > 0), package - uncore, core)
    return KeplerPowers(package, core, uncore, milliwatts["dram"])


def unsigned_milliwatts(watts: float) -> int:
    """Convert watts to the form in which Kepler stores them: whole milliwatts in an unsigned number of 64 bits.

    A negative number wraps around to about 1.8e19 mW, and a number that is not finite becomes 9.2e18 mW.
    """
    return int(watts * 1000) % 2**64 if math.isfinite(watts) else 2**63
