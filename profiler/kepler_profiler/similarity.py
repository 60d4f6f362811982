"""How alike two machines are, attribute by attribute.

    similarity = 1 − looseness − uncertainty · (1 − EXPECTED)

Looseness is the weighted part of the attributes that differ, uncertainty the weight of those that
only one of the two machines states. It is symmetric, in [0, 1], and 1.0 only for equal specs. An
attribute that neither states says nothing and counts for nothing.

| attribute | weight | likeness of two values |
|---|---|---|
| processor | 0.45 | 1 if equal, 0 for two vendors, else 0.2 + 0.75 · (common beginning of the rest ÷ the longer rest) |
| cores, chips, memory, frequency | 0.2, 0.15, 0.1, 0.1 | the smaller ÷ the larger |

The weights are a judgement: which processor it is decides a node's power curve first, then how much
of it there is; memory and clock shift the curve less. Processor names are Kepler's:
`<vendor>_<family>_…_<model>`, so that names with a longer common beginning are closer relatives: a
newer stepping of a family is nearer than another family, and that nearer than another vendor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray

Spec = Mapping[str, Any]

WEIGHTS = {"processor": 0.45, "cores": 0.2, "chips": 0.15, "memory": 0.1, "frequency": 0.1}
ATTRIBUTES = tuple(WEIGHTS)
NUMERIC = ATTRIBUTES[1:]

EXPECTED = 0.4
"""The likeness that is taken for an attribute that only one machine states."""

_WEIGHT = np.array(list(WEIGHTS.values()))
_SAME_VENDOR = 0.2
_SAME_BEGINNING = 0.75
_KEPT_PROCESSORS = 256


@attrs.frozen
class Likeness:
    """How alike one machine is to another one."""

    similarity: float
    looseness: float
    uncertainty: float
    attributes: dict[str, float | None]
    """Attribute -> likeness in [0, 1]; None where only one of the two states it."""


@attrs.frozen(eq=False)
class _Comparison:
    """One spec beside those of a table: a row for each of them."""

    similarity: FloatArray
    looseness: FloatArray
    uncertainty: FloatArray
    scores: FloatArray
    """Shape (specs, attributes); NaN where not both state it."""
    stated: BoolArray
    """Whether either of the two states it."""


class SpecTable:
    """Machine specs to compare others with.

    A spec maps attributes (`ATTRIBUTES`, others are ignored) to a name or a number; an empty name, 0
    and None are the same as absent.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self._processors = [_name(spec.get("processor")) for spec in specs]
        self._distinct = sorted({p for p in self._processors if p})
        at = {processor: index for index, processor in enumerate(self._distinct)}
        self._scores: dict[str, FloatArray] = {}
        self._processor = np.array([at.get(p, -1) for p in self._processors], dtype=np.intp)
        self._numbers = np.array([_numbers(spec) for spec in specs], dtype=np.float64).reshape(len(specs), len(NUMERIC))
        self._stated = np.column_stack([self._processor >= 0, self._numbers > 0])
        self._last: tuple[Spec, _Comparison] | None = None

    def similarities(self, spec: Spec) -> FloatArray:
        """The similarity of each spec of the table to this one, shape (specs,)."""
        return self._compared(spec).similarity

    def likeness(self, spec: Spec, row: int) -> Likeness:
        """The same for one spec of the table, attribute by attribute."""
        found = self._compared(spec)
        attributes = {
            name: None if np.isnan(score) else round(float(score), 4)
            for name, score, stated in zip(ATTRIBUTES, found.scores[row], found.stated[row], strict=True)
            if stated
        }
        return Likeness(
            float(found.similarity[row]), float(found.looseness[row]), float(found.uncertainty[row]), attributes
        )

    def _compared(self, spec: Spec) -> _Comparison:
        # whoever asks for similarities asks for the likeness to the most similar one next
        last = self._last
        if last is None or last[0] != spec:
            last = self._last = dict(spec), self._compare(spec)
        return last[1]

    def _processor_scores(self, processor: str) -> FloatArray:
        """Likeness of each distinct processor to this one."""
        found = self._scores.get(processor)
        if found is None:
            if len(self._scores) > _KEPT_PROCESSORS:
                self._scores.clear()
            found = np.array([processor_likeness(processor, other) for other in self._distinct])
            self._scores[processor] = found
        return found

    def _compare(self, spec: Spec) -> _Comparison:
        theirs = self._numbers
        scores = np.full((len(theirs), len(ATTRIBUTES)), np.nan)
        processor = _name(spec.get("processor"))
        if processor and self._distinct:
            known = self._processor >= 0
            scores[known, 0] = self._processor_scores(processor)[self._processor[known]]
        numbers = np.array(_numbers(spec))
        both = (theirs > 0) & (numbers > 0)
        np.divide(np.minimum(theirs, numbers), np.maximum(theirs, numbers), out=scores[:, 1:], where=both)
        stated = self._stated | np.array([bool(processor), *(numbers > 0)])
        weight = np.where(stated, _WEIGHT, 0.0)
        total = weight.sum(axis=1)
        weight /= np.where(total > 0, total, 1.0)[:, None]
        unknown = np.isnan(scores)
        looseness = np.where(unknown, 0.0, weight * (1.0 - scores)).sum(axis=1)
        uncertainty = np.where(unknown, weight, 0.0).sum(axis=1)
        similarity = 1.0 - looseness - uncertainty * (1.0 - EXPECTED)
        # rounding must not make equal specs unlike, nor unlike ones equal
        exact = np.where(unknown, weight == 0, scores == 1.0).all(axis=1)
        similarity = np.where(exact, 1.0, np.clip(similarity, 0.0, 1.0 - 1e-9))
        return _Comparison(similarity, looseness, uncertainty, scores, stated)


def compare(one: Spec, other: Spec) -> Likeness:
    """How alike two machines are."""
    return SpecTable([other]).likeness(one, 0)


def processor_likeness(one: str, other: str) -> float:
    """Of two processor names, in [0, 1]."""
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


def _name(value: object) -> str:
    return value.strip().casefold() if isinstance(value, str) else ""


def _numbers(spec: Spec) -> list[float]:
    found = (spec.get(name) for name in NUMERIC)
    return [float(v) if isinstance(v, int | float) and 0 < v < np.inf else 0.0 for v in found]
