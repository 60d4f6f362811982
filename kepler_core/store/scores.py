"""The scores in a model's metadata: errors, correlations and other numbers by which models are compared."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import attrs

from kepler_core.honesty.document import HONESTY_KEY, SPLIT_NAMES

_NOT_SCORES = ("node_type", "rows", "mape_floor")
"""Keys of the metadata whose numbers are not scores."""

# Models whose scores have the same names share one tuple of names. This saves memory in large stores.
_SHARED_NAMES: dict[tuple[str, ...], tuple[str, ...]] = {}
_MAX_SHARED_NAMES = 1000


@attrs.frozen(eq=False)
class Scores:
    """The scores of one model."""

    names: tuple[str, ...]
    values: array[float]
    measured_on: tuple[Any, ...]
    """Identity of the data that the model was validated on. Scores of models with equal identities are comparable."""
    relative_mae: float
    """The model's mae divided by the mae of always predicting the median of the training data; NaN if unknown."""
    has_twin: bool = False
    """Whether the model has a twin: another model that checks it (`kepler_core.honesty.document.Twin`)."""

    def get(self, name: str) -> float | None:
        """Return the score with this name; None if it is unknown or not finite."""
        value = next((value for known, value in zip(self.names, self.values, strict=True) if known == name), None)
        return value if value is not None and math.isfinite(value) else None


def hardest_error(scores: Scores) -> float | None:
    """Return the error by which models of one training are ranked, in watts; None if it is unknown.

    It is the mean absolute error on the hardest part of the hardest split. Models without splits are ranked by `mae`.
    """
    worst = [error for split in SPLIT_NAMES if (error := scores.get(f"{split}_worst")) is not None]
    return max(worst) if worst else scores.get("mae")


def read_scores(metadata: Mapping[str, Any], default_data: tuple[Any, ...]) -> Scores:
    """Read the scores from a model's metadata.

    Numbers at the top level of the metadata are scores. Numbers in a component's validation are scores named
    `<component>_<number's name>`. The mae on each measured split (`kepler_core.honesty`) is a score named
    `<split>_mae`, and the mae on the hardest part of the split a score named `<split>_worst`. Recalibrated
    models also have the scores `blocks_standard_error` and `blocks_earlier`. If the top level has no `r2`, the score
    `r2` is the lowest r2 of all components. `default_data` identifies the validation data if the metadata do not
    identify it.
    """
    scores: dict[str, float] = {}
    components = _component_scores(metadata)
    for component, numbers in (("", metadata), *components.items()):
        for key, value in numbers.items():
            if type(value) is float or type(value) is int:
                name, is_error = _score_name(component, key)
                # in the public model database, a mae, mape or mse of -1 means that the value is not known
                if name is not None and not (is_error and value < 0):
                    scores.setdefault(name, float(value))
    r2 = [numbers["r2"] for numbers in components.values() if _is_number(numbers.get("r2"))]
    if r2:
        scores.setdefault("r2", float(min(r2)))
    honesty = metadata.get(HONESTY_KEY)
    splits = honesty.get("splits") if isinstance(honesty, dict) else None
    for split in SPLIT_NAMES:
        errors = splits.get(split) if isinstance(splits, dict) else None
        if isinstance(errors, dict) and _is_number(errors.get("mae")):
            worst = errors.get("worst")
            scores.setdefault(f"{split}_mae", float(errors["mae"]))
            scores.setdefault(f"{split}_worst", float(errors["mae"] if worst is None else worst))
            for key in ("standard_error", "earlier"):
                if _is_number(errors.get(key)):
                    scores.setdefault(f"{split}_{key}", float(errors[key]))
    if len(_SHARED_NAMES) > _MAX_SHARED_NAMES:
        _SHARED_NAMES.clear()
    names = tuple(scores)
    names = _SHARED_NAMES.setdefault(names, names)
    return Scores(
        names,
        array("d", scores.values()),
        _measured_on(metadata, default_data),
        _relative_mae(components),
        isinstance(honesty, dict) and honesty.get("twin") is not None,
    )


# The result is cached, because most models of a store have scores with the same names.
@lru_cache(maxsize=4096)
def _score_name(component: str, key: str) -> tuple[str | None, bool]:
    """Return the score's name (None if the number under `key` is not a score), and whether the score is an error."""
    if key in _NOT_SCORES:
        return None, False
    return f"{component}_{key}" if component else key, key.endswith(("mae", "mape", "mse"))


def _is_number(value: object) -> bool:
    return type(value) is float or type(value) is int


def _component_scores(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    validation = metadata.get("validation")
    components = validation.get("components") if isinstance(validation, dict) else None
    if not isinstance(components, dict):
        return {}
    return {name: numbers for name, numbers in components.items() if isinstance(numbers, dict)}


def _measured_on(metadata: Mapping[str, Any], default_data: tuple[Any, ...]) -> tuple[Any, ...]:
    lineage, validation = metadata.get("lineage"), metadata.get("validation")
    if isinstance(lineage, dict) and isinstance(validation, dict) and "data" in lineage:
        # The timestamps distinguish data, too: the series of a feature group may begin later in a recording. Then
        # the group's models are validated on other data than the models of other feature groups.
        return _shared_tuple(str(lineage["data"]), str(validation.get("timestamps")), *default_data[1:])
    return _shared_tuple(*default_data)


@lru_cache(maxsize=4096)
def _shared_tuple(*data: Any) -> tuple[Any, ...]:
    """Return one tuple object for all models that were measured on the same data."""
    return data


def _relative_mae(components: Mapping[str, Mapping[str, Any]]) -> float:
    pairs = [
        (numbers["mae"], numbers["constant_mae"])
        for numbers in components.values()
        if _is_number(numbers.get("mae")) and _is_number(numbers.get("constant_mae"))
    ]
    if not pairs:
        return math.nan
    mae, constant_mae = max(pairs)
    return float(mae / constant_mae) if constant_mae > 0 else math.nan
