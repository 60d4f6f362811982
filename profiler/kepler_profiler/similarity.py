"""The similarity of two machines, calculated from the attributes in their specs.

    similarity = 1 − looseness − uncertainty · (1 − EXPECTED)

Each attribute has a weight. The likeness of an attribute's two values is between 0 and 1. Looseness is the
sum of weight · (1 − likeness) over the attributes that both specs have. Uncertainty is the sum of the weights
of the attributes that only one of the two specs has. EXPECTED is the likeness that is assumed for such an
attribute. An attribute that neither spec has is ignored, and the weights of the other attributes are scaled to
the sum 1. The similarity is symmetric, in [0, 1], and 1.0 only for equal specs.

| attribute | weight | likeness of two values |
|---|---|---|
| processor | 0.45 | 1 if equal, 0 if vendors differ, else 0.2 + 0.75 · (equal beginning ÷ longer name) |
| cores, chips, memory, frequency | 0.2, 0.15, 0.1, 0.1 | the smaller value ÷ the larger value |

The weights are an estimate: the processor has the largest effect on a node's power curve, then the numbers of
cores and chips. Memory and frequency have less effect. Processor names are compared in the form
`<vendor>_<family>_…_<model>` of `kepler_core.processor_names`, and their beginnings are compared without the
vendor. In the table, "equal beginning" and "longer name" are numbers of letters. The longer the equal beginning, the
more closely two processors are related: a newer stepping of a family is nearer than another family of the same
vendor. A name that fits processors of several generations counts as absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.processor_names import comparable_processor

Spec = Mapping[str, Any]

WEIGHTS = {"processor": 0.45, "cores": 0.2, "chips": 0.15, "memory": 0.1, "frequency": 0.1}
ATTRIBUTES = tuple(WEIGHTS)
NUMERIC = ATTRIBUTES[1:]

EXPECTED = 0.4
"""The assumed likeness of an attribute that only one of the two specs has."""

_WEIGHT = np.array(list(WEIGHTS.values()))
_SAME_VENDOR = 0.2
_SAME_BEGINNING = 0.75
_KEPT_NUMBERS = 500_000
"""Maximum number of 8-byte numbers in a table's cache of columns. They take 4 MB."""


@attrs.frozen
class Likeness:
    """How similar two machines are: similarity, looseness and uncertainty as explained at the top of the module."""

    similarity: float
    looseness: float
    uncertainty: float
    attributes: dict[str, float | None]
    """Likeness of the two values of each attribute, in [0, 1]; None if only one of the two specs has the attribute."""


@attrs.frozen(eq=False)
class _Column:
    """The comparison of one attribute of a spec with all specs of a table."""

    scores: FloatArray
    """Likeness of the two values, shape (specs,); NaN if one of the two specs lacks the attribute."""
    terms: FloatArray
    """Weight, looseness, uncertainty and number of differences (0 or 1) of the attribute; shape (4, specs).

    The sums over all attributes are the values of the whole specs.
    """


class _Comparison:
    """The comparison of one spec with all specs of a table. Each array has the shape (specs,)."""

    def __init__(self, columns: Sequence[_Column]) -> None:
        """Add up the terms of all attributes. There is one column for each attribute."""
        self._columns = columns
        terms = columns[0].terms + columns[1].terms
        for column in columns[2:]:
            terms += column.terms
        weight, loose, uncertain, differences = terms
        total = np.where(weight > 0, weight, 1.0)
        self._looseness = loose / total
        self._uncertainty = uncertain / total
        similarity = 1.0 - self._looseness - self._uncertainty * (1.0 - EXPECTED)
        # Only equal specs may have the similarity 1. Rounding errors must not change this.
        similarity = np.minimum(np.maximum(similarity, 0.0), 1.0 - 1e-9)
        self.similarity: FloatArray = np.where(differences == 0, 1.0, similarity)

    def likeness(self, row: int) -> Likeness:
        """Return the comparison with one spec of the table."""
        stated = {n: c.scores[row] for n, c in zip(ATTRIBUTES, self._columns, strict=True) if c.terms[0, row] > 0}
        return Likeness(
            float(self.similarity[row]),
            float(self._looseness[row]),
            float(self._uncertainty[row]),
            {name: None if np.isnan(score) else round(float(score), 4) for name, score in stated.items()},
        )


class SpecTable:
    """A table of machine specs, with which other machine specs are compared.

    A spec maps attributes to a name or a number. Attributes that are not in `ATTRIBUTES` are ignored. A spec
    does not have an attribute if the value is None, 0, an empty name, or a name that no processor has.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._processors = [comparable_processor(spec.get("processor")) for spec in specs]
        self._distinct = sorted({p for p in self._processors if p})
        at = {processor: index for index, processor in enumerate(self._distinct)}
        self._processor = np.array([at.get(p, -1) for p in self._processors], dtype=np.intp)
        numbers = np.array([_numbers(spec) for spec in specs], dtype=np.float64).reshape(len(specs), len(NUMERIC))
        self._numbers = np.ascontiguousarray(numbers.T)
        self._known = self._numbers > 0
        # This cache has the columns of earlier comparisons. Machines have few different values of an attribute, so the
        # columns of most comparisons are in the cache.
        self._column = lru_cache(max(_KEPT_NUMBERS // (5 * max(len(specs), 1)), 16))(self._compare_attribute)
        self._last: tuple[Spec, _Comparison] | None = None

    def similarities(self, spec: Spec) -> FloatArray:
        """Return the similarity of each spec in the table to `spec`, shape (specs,)."""
        return self._compared(spec).similarity

    def likeness(self, spec: Spec, row: int) -> Likeness:
        """Compare `spec` with the spec in row `row` of the table: all attributes together, and each one alone."""
        return self._compared(spec).likeness(row)

    def _compared(self, spec: Spec) -> _Comparison:
        # Keep the latest comparison: after `similarities`, callers usually call `likeness` with the same spec.
        last = self._last
        if last is None or last[0] != spec:
            last = self._last = dict(spec), self._compare(spec)
        return last[1]

    def _compare(self, spec: Spec) -> _Comparison:
        values = (comparable_processor(spec.get("processor")), *_numbers(spec))
        return _Comparison([self._column(attribute, value) for attribute, value in enumerate(values)])

    def _compare_attribute(self, attribute: int, value: str | float) -> _Column:
        """Compare `value` with the value that each spec of the table has for the attribute `ATTRIBUTES[attribute]`."""
        if not isinstance(value, str) and value > 0:
            return self._compare_number(attribute, value)
        stated, scores = self._processor_scores(value) if isinstance(value, str) else self._ratios(attribute, value)
        weight = np.where(stated, _WEIGHT[attribute], 0.0)
        unknown = np.isnan(scores)
        differs = np.where(unknown, stated, scores != 1.0)
        terms = [weight, np.where(unknown, 0.0, weight * (1.0 - scores)), np.where(unknown, weight, 0.0), differs]
        return _Column(scores, np.array(terms))

    def _compare_number(self, attribute: int, number: float) -> _Column:
        """Do the same as `_compare_attribute` for a known number, but with fewer array operations."""
        theirs, known, weight = self._numbers[attribute - 1], self._known[attribute - 1], _WEIGHT[attribute]
        ratios = np.minimum(theirs, number) / np.maximum(theirs, number)  # 0 if the table does not have the number
        terms = np.empty((4, len(theirs)))
        terms[0] = weight
        np.multiply(known - ratios, weight, out=terms[1])
        np.multiply(~known, weight, out=terms[2])
        terms[3] = ratios != 1.0
        return _Column(np.where(known, ratios, np.nan), terms)

    def _processor_scores(self, processor: str) -> tuple[BoolArray, FloatArray]:
        """Compare `processor` with the processor of each spec.

        Return two arrays of the shape (specs,): whether at least one of the two names is known, and the likeness of the
        two names.
        """
        named = self._processor >= 0
        scores = np.full(len(named), np.nan)
        if processor and self._distinct:
            of_distinct = np.array([processor_likeness(processor, other) for other in self._distinct])
            scores[named] = of_distinct[self._processor[named]]
        return named | bool(processor), scores

    def _ratios(self, attribute: int, number: float) -> tuple[BoolArray, FloatArray]:
        """Compare `number` with the number that each spec has for an attribute.

        Return two arrays of the shape (specs,): whether at least one of the two numbers is known, and the quotient
        lower number ÷ higher number.
        """
        theirs = self._numbers[attribute - 1]
        scores = np.full(len(theirs), np.nan)
        np.divide(np.minimum(theirs, number), np.maximum(theirs, number), out=scores, where=(theirs > 0) & (number > 0))
        return (theirs > 0) | (number > 0), scores


def compare(one: Spec, other: Spec) -> Likeness:
    """Return how similar the machines of two specs are."""
    return SpecTable([other]).likeness(one, 0)


def processor_likeness(one: str, other: str) -> float:
    """Return the likeness of two processor names in the form of `comparable_processor`, in [0, 1]."""
    if one == other:
        return 1.0
    vendor, _, rest = one.partition("_")
    other_vendor, _, other_rest = other.partition("_")
    if vendor != other_vendor:
        return 0.0
    common = next(
        (i for i, (a, b) in enumerate(zip(rest, other_rest, strict=False)) if a != b), min(len(rest), len(other_rest))
    )
    return _SAME_VENDOR + _SAME_BEGINNING * common / max(len(rest), len(other_rest), 1)


def _numbers(spec: Spec) -> list[float]:
    values = map(spec.get, NUMERIC)
    return [float(value) if isinstance(value, (int, float)) and 0 < value < math.inf else 0.0 for value in values]
