"""Sums whose order of additions does not depend on the shape of the arrays."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from kepler_core.arrays import FloatArray, SingleArray

Numbers = TypeVar("Numbers", FloatArray, SingleArray)


def sum_in_order(numbers: Numbers) -> Numbers:
    """Return the sums over the first axis, added one element after the other, in the precision of the elements.

    ONNX Runtime adds trees in this order. NumPy adds in this order along the first axis, which is several times as fast
    as a cumulative sum. If the other axes have only one element, NumPy's sum has another order.
    """
    several = numbers[0].size > 1
    sums: Numbers = np.add.reduce(numbers, axis=0) if several else np.add.accumulate(numbers, axis=0)[-1]
    return sums
