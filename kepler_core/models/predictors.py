"""What a model format loads: predictors of one component, or of several together."""

from __future__ import annotations

from typing import Protocol

import attrs

from kepler_core.arrays import FloatArray, SingleArray


class Predictor(Protocol):
    """A loaded model of one component."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts, shape (samples,), for features divided by their scale, shape (samples, features)."""


class JointPredictor(Protocol):
    """Loaded models of several components that are evaluated in one call."""

    def predict(self, X: SingleArray) -> FloatArray:
        """Return watts, shape (components, samples), for features as `Predictor` takes them."""


@attrs.frozen(eq=False)
class ComponentPredictor:
    """A predictor and the components that it predicts, in the order of its rows."""

    components: tuple[str, ...]
    predictor: Predictor | JointPredictor
