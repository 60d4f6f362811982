"""The power curve of a model: the watts of each component from idle to full load."""

from __future__ import annotations

import msgspec
import numpy as np

from kepler_core.honesty.document import read_honesty
from kepler_core.honesty.interval import LEVEL, SAME_MACHINE, half_widths
from kepler_core.models.power_model import PowerModel
from kepler_core.vocabulary import load_feature

POINTS = 41
"""Number of points of the curve, evenly spaced from idle to full load."""


class ComponentCurve(msgspec.Struct):
    """The power of one component at each point of the curve."""

    watts: list[float]
    half_width: list[float] | None = None
    """Half-width of the interval at each point in watts, for the machine of the training; None without intervals."""


class Curve(msgspec.Struct):
    """The power of each component while all features rise together from their lowest to their highest values."""

    feature: str = ""
    """The feature on the x axis. It is the feature that represents the load best."""
    x: list[float] = []
    """Values of the feature."""
    components: dict[str, ComponentCurve] = {}
    trained_range: bool = False
    """Whether the model states the range that each feature had in its training. If not, the features rise from 0."""
    level: float = LEVEL
    reason: str = ""
    """The reason why there is no curve; empty if there is a curve."""


def curve_of(model: PowerModel) -> Curve:
    """Return the power curve of a model. Raises `ModelError` if the model cannot be evaluated."""
    honesty = read_honesty(model.metadata)
    lowest, highest = np.zeros(len(model.features)), model.scale.copy()
    if honesty is not None:
        for at, name in enumerate(model.features):
            if name in honesty.seen.features:
                lowest[at], highest[at] = honesty.seen.features[name]
    part = np.linspace(0.0, 1.0, POINTS)[:, None]
    X = lowest + part * (highest - lowest)
    watts = model.predict(X)
    halves = {} if honesty is None else half_widths(honesty, watts, np.zeros(POINTS, dtype=bool), SAME_MACHINE)
    feature = load_feature(model.features)
    return Curve(
        feature=feature,
        x=X[:, model.features.index(feature)].tolist(),
        components={
            name: ComponentCurve(values.tolist(), halves[name].tolist() if name in halves else None)
            for name, values in watts.items()
        },
        trained_range=honesty is not None,
        level=LEVEL if honesty is None else honesty.level,
    )
