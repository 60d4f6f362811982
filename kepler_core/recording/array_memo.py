"""A cache for calculations on arrays: a calculation on equal arrays is done only once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class ArrayMemo(Generic[T]):
    """A cache of results. The key of a result is the arrays from which the result was calculated.

    The metrics of one exporter usually have the same series and timestamps. A result that was calculated
    from the series and timestamps of one metric is therefore reused for the other metrics. Arrays are
    compared by identity first, then by content.
    """

    def __init__(self) -> None:
        self._entries: list[tuple[tuple[NDArray[Any], ...], T]] = []

    def get(self, arrays: tuple[NDArray[Any], ...], calculate: Callable[[], T]) -> T:
        """Return the cached result for equal arrays. If there is none, call `calculate` and cache its result."""
        for earlier, result in self._entries:
            if all(len(a) == len(b) and (a is b or np.array_equal(a, b)) for a, b in zip(earlier, arrays, strict=True)):
                return result
        result = calculate()
        self._entries.append((arrays, result))
        return result

    @property
    def results(self) -> list[T]:
        """All cached results, in the order in which they were calculated."""
        return [result for _, result in self._entries]
