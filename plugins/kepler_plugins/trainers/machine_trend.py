"""The linear part of `MachinePowerTrainer`: how the logarithm of power changes with the facts about a machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray

LOGARITHMIC = ("machine_tdp_w", "machine_cores", "machine_memory_gib", "machine_chips", "machine_idle_per_w")
"""Features whose logarithm is a term."""
YEAR = "machine_year"
PLAIN = ("machine_threads_per_core", "machine_is_amd", YEAR)
"""Features that are terms themselves."""
IDLE = "machine_idle_per_w"
_SMALLEST = 1e-3
"""Smallest number whose logarithm is computed, as a fraction of the largest value in training."""
_ROOM = 0.75
"""A term may exceed the range of the training by this fraction of the range. Farther values are cut to this limit. This
was tested on the table of SPECpower_ssj2008 results up to 2018. Models of machines up to 2012 predict machines of 2013
to 2018 from their idle power with a mean error of 9 %. If terms are cut at 0.3, the error is 12 %."""
_PENALTY = 11.0
"""Penalty of the squared weights (ridge regression), for standardised terms. It counts as much as the rows of one
machine that is measured at 11 loads."""

Node = Callable[..., str]


@attrs.frozen
class TrendColumns:
    """The columns of X that the terms of a `Trend` are computed from."""

    logarithmic: tuple[int, ...]
    plain: tuple[int, ...]
    load: int | None
    year: int | None
    idle: int | None


def trend_columns(features: Sequence[str], load: str) -> TrendColumns | None:
    """Return the columns of the terms; None if the features have no fact about a machine."""

    def columns(names: Sequence[str]) -> tuple[int, ...]:
        return tuple(features.index(name) for name in names if name in features)

    def column(name: str) -> int | None:
        return features.index(name) if name in features else None

    logarithmic, plain = columns(LOGARITHMIC), columns(PLAIN)
    if not logarithmic and not plain:
        return None
    return TrendColumns(logarithmic, plain, column(load), column(YEAR), column(IDLE))


class Trend:
    """A ridge regression on logarithms of facts about machines, their year, and the load.

    The terms are those of `TrendColumns`, the load L, √L and L², and the products L · year, √L · year and
    L · ln(idle power), all standardised. If the idle power is not known, year² is a term, too: the idle power has
    fallen less and less with the years. A tree predicts the same power for a machine of next year as for the newest
    machine of the training. A trend continues beyond the range of the training, by up to the fraction `_ROOM` of it.
    """

    def __init__(self, columns: TrendColumns) -> None:
        self.columns = columns
        year, idle = self._position(columns.year), self._position(columns.idle)
        self.products: list[tuple[int, int]] = []
        """For each term that is a product of two other terms, the positions of these two terms."""
        if year is not None and idle is None:
            self.products.append((year, year))
        if columns.load is not None:
            load = len(columns.logarithmic) + len(columns.plain)
            self.products += [] if year is None else [(load, year), (load + 1, year)]
            self.products += [] if idle is None else [(load, idle)]

    def _position(self, column: int | None) -> int | None:
        """Return the position of the term that is computed from a column of X; None if the column has no term."""
        order = [*self.columns.logarithmic, *self.columns.plain]
        return None if column is None or column not in order else order.index(column)

    def fit(self, X: FloatArray, logs: FloatArray) -> Trend:
        """Fit the trend to the logarithms `logs`, shape (rows,), which belong to the rows of X."""
        highest = np.abs(X[:, list(self.columns.logarithmic)]).max(axis=0, initial=0.0)
        self.highest = np.where(highest > 0, highest, 1.0)
        simple = self._simple(X)
        low, high = simple.min(axis=0), simple.max(axis=0)
        self.low, self.high = low - _ROOM * (high - low), high + _ROOM * (high - low)
        self.mean, deviation = simple.mean(axis=0), simple.std(axis=0)
        # A term that is constant in the training stays 0, whatever its value is later.
        self.factor = np.where(deviation > 1e-9 * np.maximum(np.abs(self.mean), 1.0), 1 / (deviation + 1e-300), 0.0)
        terms = self._terms(X)
        center = terms.mean(axis=0)
        squares = (terms - center).T @ (terms - center)
        level = float(logs.mean())
        self.weights: FloatArray = np.linalg.solve(
            squares + _PENALTY * np.eye(len(squares)), (terms - center).T @ (logs - level)
        )
        self.intercept = level - float(self.weights @ center)
        return self

    def predict(self, X: FloatArray) -> FloatArray:
        """Return the predicted logarithms, shape (rows,)."""
        result: FloatArray = self._terms(X) @ self.weights + self.intercept
        return result

    def _simple(self, X: FloatArray) -> FloatArray:
        """Return the terms without the products, shape (rows, terms). The terms are not yet standardised."""
        parts = [
            np.log(np.maximum(X[:, list(self.columns.logarithmic)] / self.highest, _SMALLEST)),
            X[:, list(self.columns.plain)],
        ]
        if self.columns.load is not None:
            load = np.maximum(X[:, self.columns.load], 0.0)
            parts.append(np.column_stack([load, np.sqrt(load), load * load]))
        return np.hstack(parts)

    def _terms(self, X: FloatArray) -> FloatArray:
        """Return all terms, shape (rows, terms): the standardised terms, then the products of standardised terms."""
        standard = (np.clip(self._simple(X), self.low, self.high) - self.mean) * self.factor
        return np.column_stack([standard, *(standard[:, one] * standard[:, other] for one, other in self.products)])

    def convert(self, X: str, node: Node, constant: Callable[[str, Any], str], part: float) -> str:
        """Add ONNX operators that compute the prediction multiplied by `part`. Return the name of their result.

        The result has the shape (rows, 1). `X` is the name of the features. `node` adds an operator and returns its
        name. `constant` adds an array and returns its name.
        """

        def gather(source: str, columns: Sequence[int]) -> str:
            return node("Gather", source, constant("columns", list(columns)), axis=1, op_version=13)

        parts = []
        if self.columns.logarithmic:
            ratio = node("Div", gather(X, self.columns.logarithmic), constant("highest", self.highest), op_version=14)
            parts.append(
                node("Log", node("Max", ratio, constant("smallest", [_SMALLEST]), op_version=13), op_version=13)
            )
        if self.columns.plain:
            parts.append(gather(X, self.columns.plain))
        if self.columns.load is not None:
            load = node("Max", gather(X, [self.columns.load]), constant("no_load", [0.0]), op_version=13)
            parts += [load, node("Sqrt", load, op_version=13), node("Mul", load, load, op_version=14)]
        simple = node("Concat", *parts, axis=1, op_version=13)
        simple = node("Max", simple, constant("low", self.low), op_version=13)
        simple = node("Min", simple, constant("high", self.high), op_version=13)
        centered = node("Sub", simple, constant("mean", self.mean), op_version=14)
        terms = standard = node("Mul", centered, constant("factor", self.factor), op_version=14)
        if self.products:
            one, other = (gather(standard, [pair[end] for pair in self.products]) for end in (0, 1))
            terms = node("Concat", standard, node("Mul", one, other, op_version=14), axis=1, op_version=13)
        weighted = node("MatMul", terms, constant("weights", part * self.weights[:, None]), op_version=13)
        return node("Add", weighted, constant("intercept", [part * self.intercept]), op_version=14)
