"""Predictors that are loaded from a model's files, and the components that each predicts."""

from __future__ import annotations

import attrs

from kepler_core.contracts import JointPredictor, Predictor


@attrs.frozen(eq=False)
class ComponentPredictor:
    """A predictor, and the components that it predicts, in the order of the rows of its result."""

    components: tuple[str, ...]
    predictor: Predictor | JointPredictor
