"""Computes the power that Kepler gets from served weights under many loads, including unusual loads.

Kepler limits neither the features nor the resulting power. So the loads include features at three times their highest
values in training. For a feature that never exceeded one event per second in training, they include 100 events per
second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from kepler_core.models.kepler_weights import KeplerWeights
from kepler_core.store.models import StoredModel
from support.kepler_powers import unsigned_milliwatts
from support.small_pipelines import evaluate

MAX_MILLIWATTS = 10**9
"""One megawatt. No machine has so much power, so a higher number comes from an overflow or another error."""


def answer_of(weights: KeplerWeights, node_type: int = 0) -> dict[str, Any]:
    """Return weights as decoded JSON, in the form in which the model server sends them."""
    components: dict[str, Any] = json.loads(b"{" + weights.encoded + b"}")
    return {"model_name": weights.model_name(node_type), **components}


def scales_of(model: StoredModel) -> dict[str, float]:
    """Return the highest value of each feature in training."""
    if model.portable:
        loaded = model.load()
        return dict(zip(loaded.features, map(float, loaded.scale), strict=True))
    assert model.weights is not None
    variables = (component.Numerical_Variables for component in model.weights.components.values())
    return {feature: variable.scale for of_component in variables for feature, variable in of_component.items()}


def loads(scale: Mapping[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield loads as pairs: description, and value of each feature. `scale` has the highest value of each feature."""
    idle = dict.fromkeys(scale, 0.0)
    yield "idle", idle
    for factor in (1.0, 3.0):
        highest = {feature: factor * value for feature, value in scale.items()}
        yield f"all features at {factor:g} × their scale", highest
        for feature, value in highest.items():
            yield f"{feature} at {factor:g} × its scale", {**idle, feature: value}
            yield f"all but {feature} at {factor:g} × their scale", {**highest, feature: 0.0}
    frequent = {feature: 100.0 for feature, value in scale.items() if value <= 1.0}
    for feature in frequent:
        yield f"{feature} at 100/s", {**idle, feature: 100.0}
    yield "all rare features at 100/s", {**idle, **frequent}
    yield "all rare features at 100/s, the rest at 3 × their scale", {**highest, **frequent}


def senseless_powers(answer: Mapping[str, Any], scale: Mapping[str, float], first: str) -> list[str]:
    """Return a description of each power above a megawatt that Kepler computes.

    `first` is the first feature in Kepler's list, which Kepler uses for curves.
    """
    return [
        f"{component}: {watts[0]:.4g} W with {description}"
        for description, load in loads(scale)
        for component, watts in evaluate(answer, {name: [value] for name, value in load.items()}, first).items()
        if unsigned_milliwatts(watts[0]) > MAX_MILLIWATTS
    ]


def sweep(model: StoredModel) -> list[str]:
    """Return a text for each power above a megawatt that Kepler would compute from the weights of a model.

    The list is empty if the model's components are curves over different features, because such weights are not served.
    """
    weights = model.weights
    assert weights is not None
    if len(weights.drawn_over) > 1:
        return []
    first = next(iter(weights.drawn_over), model.features[0])
    return [f"{model.path}: {text}" for text in senseless_powers(answer_of(weights), scales_of(model), first)]
