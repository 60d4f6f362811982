"""The filter language of requests: `mae:5;mape:10;features:cpu_cycles,cache_miss`.

Conditions are separated by `;` and all must hold. An error must be at most the number, a correlation
(`r2`, `abs_max_corr`, `<component>_r2`) at least; `features` lists the only features that a model may
use.
"""

from __future__ import annotations

import math

import attrs

from kepler_core.errors import RequestError

MAX_CONDITIONS = 50


@attrs.frozen
class Threshold:
    """One number that a model's metadata is compared with."""

    key: str
    limit: float

    @property
    def at_least(self) -> bool:
        """Whether more is better."""
        return self.key.endswith(("r2", "corr"))

    def __str__(self) -> str:
        return f"{self.key} {'≥' if self.at_least else '≤'} {self.limit:g}"


@attrs.frozen
class Filter:
    """What models must meet."""

    thresholds: tuple[Threshold, ...] = ()
    features: frozenset[str] | None = None
    text: str = attrs.field(default="", eq=False)
    """As it was written."""

    def __bool__(self) -> bool:
        return bool(self.thresholds) or self.features is not None


def parse_filter(text: str) -> Filter:
    """The filter of a request; `RequestError` says which condition is wrong. Empty text: no filter."""
    thresholds: list[Threshold] = []
    features: frozenset[str] | None = None
    conditions = [part for part in (piece.strip() for piece in text.split(";")) if part]
    if len(conditions) > MAX_CONDITIONS:
        raise RequestError("filter", f"{len(conditions)} conditions, at most {MAX_CONDITIONS}")
    for condition in conditions:
        key, colon, value = (part.strip() for part in condition.partition(":"))
        if not (key and colon and value):
            raise RequestError("filter", f"{_shown(condition)} is not attribute:number or features:a,b")
        if key == "features":
            named = frozenset(name for name in (n.strip() for n in value.split(",")) if name)
            features = named if features is None else features & named
            continue
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise RequestError("filter", f"{_shown(condition)}: {_shown(value)} is not a number")
        thresholds.append(Threshold(key, limit))
    return Filter(tuple(thresholds), features, text)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
