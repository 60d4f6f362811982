"""Sums whose order of additions does not depend on the shape of the arrays."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from kepler_core.arrays import FloatArray, SingleArray

Numbers = TypeVar("Numbers", FloatArray, SingleArray)


def sum_in_order(numbers: Numbers) -> Numbers:
    """Add up the elements along the first axis, one after the other, in the precision of the elements.

    ONNX Runtime adds the trees of an ensemble in this order. NumPy's sum along the first axis has this order, too, and
    is several times as fast as a cumulative sum. But if the other axes have only one element, it has another order.
    """
    several = numbers[0].size > 1
    sums: Numbers = np.add.reduce(numbers, axis=0) if several else np.add.accumulate(numbers, axis=0)[-1]
    return sums
