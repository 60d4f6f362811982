"""The filter language of requests: `mae:5;mape:10;features:cpu_cycles,cache_miss`.

Conditions are separated by `;`, and a model must meet all of them. A model's error, e.g. `mae`, must be at
most the given number. A model's correlation (`r2`, `abs_max_corr`, `<component>_r2`) must be at least the
given number. `features` lists the only features that a model may use.
"""

from __future__ import annotations

import math

import attrs

from kepler_core.errors import RequestError
from kepler_core.messages import quoted

MAX_CONDITIONS = 50


@attrs.frozen
class Threshold:
    """A condition of a filter that limits one score."""

    key: str
    limit: float

    @property
    def at_least(self) -> bool:
        """Whether the score must be at least the limit. Otherwise the score must be at most the limit."""
        return self.key.endswith(("r2", "corr"))

    def __str__(self) -> str:
        return f"{self.key} {'≥' if self.at_least else '≤'} {self.limit:g}"


@attrs.frozen
class Filter:
    """Conditions on models."""

    thresholds: tuple[Threshold, ...] = ()
    features: frozenset[str] | None = None
    text: str = attrs.field(default="", eq=False)
    """The text of the filter, as it is in the request."""

    def __bool__(self) -> bool:
        return bool(self.thresholds) or self.features is not None


def parse_filter(text: str) -> Filter:
    """Parse the filter of a request. An empty text gives a filter without conditions.

    Raises `RequestError`, whose message names the malformed condition.
    """
    thresholds: list[Threshold] = []
    features: frozenset[str] | None = None
    conditions = [part for part in (piece.strip() for piece in text.split(";")) if part]
    if len(conditions) > MAX_CONDITIONS:
        raise RequestError("filter", f"{len(conditions)} conditions, at most {MAX_CONDITIONS}")
    for condition in conditions:
        key, colon, value = (part.strip() for part in condition.partition(":"))
        if not (key and colon and value):
            raise RequestError("filter", f"{quoted(condition)} is not attribute:number or features:a,b")
        if key == "features":
            named = frozenset(name for name in (n.strip() for n in value.split(",")) if name)
            features = named if features is None else features & named
            continue
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not math.isfinite(limit):
            raise RequestError("filter", f"{quoted(condition)}: {quoted(value)} is not a number")
        thresholds.append(Threshold(key, limit))
    return Filter(tuple(thresholds), features, text)
