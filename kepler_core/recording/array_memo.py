"""Results of calculations on arrays, kept for further calls with equal arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class ArrayMemo(Generic[T]):
    """Results by the arrays that they were calculated from.

    The metrics of one exporter usually have the same series and timestamps. What is calculated from these
    for the first metric is reused for the others. Arrays are compared by identity first, then by content.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[tuple[NDArray[Any], ...], T]] = []

    def get(self, arrays: tuple[NDArray[Any], ...], calculate: Callable[[], T]) -> T:
        """Return the result for these arrays; call `calculate` if there is none yet."""
        for earlier, result in self._entries:
            if all(len(a) == len(b) and (a is b or np.array_equal(a, b)) for a, b in zip(earlier, arrays, strict=True)):
                return result
        result = calculate()
        self._entries.append((arrays, result))
        return result

    @property
    def results(self) -> list[T]:
        """All results, in the order of their calculation."""
        return [result for _, result in self._entries]
