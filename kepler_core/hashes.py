"""Mix the bits of numbers, to make random choices that depend only on the chosen things."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]


def mixed(values: Hashes) -> Hashes:
    """Return a hash of each value: the last steps of the random number generator SplitMix64.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators (2014).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
