"""The numbers in a model's metadata."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs

# numbers that are neither errors nor correlations
_NOT_FIGURES = ("node_type", "rows", "mape_floor")

# one tuple of names serves all models that have the same figures
_KEYS: dict[tuple[str, ...], tuple[str, ...]] = {}
_MOST_KEYS = 1000


@attrs.frozen(eq=False)
class Figures:
    """Errors, correlations and the like, by name."""

    keys: tuple[str, ...]
    values: array[float]
    data: tuple[Any, ...]
    """What they were measured on: models with the same can be compared as they are."""
    relative: float
    """The mae divided by that of always answering the mean of the training data; NaN if not known."""


def read_figures(metadata: Mapping[str, Any], otherwise: tuple[Any, ...]) -> Figures:
    """The figures of a model: numbers at the top of its metadata, and per component
    `<component>_<figure>` of its validation. `r2` is the lowest of the components'.

    `otherwise` says what they were measured on if the metadata does not.
    """
    found: dict[str, float] = {}
    components = _components(metadata)
    for component, measured in (("", metadata), *components.items()):
        for key, value in measured.items():
            if type(value) is float or type(value) is int:
                name, is_error = _figure(component, key)
                # the public database writes -1 for an error that is not known
                if name is not None and not (is_error and value < 0):
                    found.setdefault(name, float(value))
    r2 = [m["r2"] for m in components.values() if _is_number(m.get("r2"))]
    if r2:
        found.setdefault("r2", float(min(r2)))
    if len(_KEYS) > _MOST_KEYS:
        _KEYS.clear()
    keys = tuple(found)
    keys = _KEYS.setdefault(keys, keys)
    return Figures(keys, array("d", found.values()), _data(metadata, otherwise), _relative(components))


# most models of a store have the same figures
@lru_cache(maxsize=4096)
def _figure(component: str, key: str) -> tuple[str | None, bool]:
    """The name of a number, None for one that is no figure, and whether it is an error."""
    if key in _NOT_FIGURES:
        return None, False
    return f"{component}_{key}" if component else key, key.endswith(("mae", "mape", "mse"))


def _is_number(value: object) -> bool:
    return type(value) is float or type(value) is int


def _components(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    validation = metadata.get("validation")
    components = validation.get("components") if isinstance(validation, dict) else None
    if not isinstance(components, dict):
        return {}
    return {name: found for name, found in components.items() if isinstance(found, dict)}


def _data(metadata: Mapping[str, Any], otherwise: tuple[Any, ...]) -> tuple[Any, ...]:
    lineage, validation = metadata.get("lineage"), metadata.get("validation")
    if isinstance(lineage, dict) and isinstance(validation, dict) and "data" in lineage:
        # feature groups of one recording can have fewer rows, where their series begin later
        return _same(str(lineage["data"]), str(validation.get("timestamps")), *otherwise[1:])
    return _same(*otherwise)


@lru_cache(maxsize=4096)
def _same(*data: Any) -> tuple[Any, ...]:
    """One tuple for all models that were measured on this."""
    return data


def _relative(components: Mapping[str, Mapping[str, Any]]) -> float:
    known = [
        (measured["mae"], measured["constant_mae"])
        for measured in components.values()
        if _is_number(measured.get("mae")) and _is_number(measured.get("constant_mae"))
    ]
    if not known:
        return math.nan
    worst, constant = max(known)
    return float(worst / constant) if constant > 0 else math.nan
