"""Loaded models of one component, or of several together."""

from __future__ import annotations

import attrs

from kepler_core.contracts import JointPredictor, Predictor


@attrs.frozen(eq=False)
class ComponentPredictor:
    """A predictor and the components that it predicts, in the order of its rows."""

    components: tuple[str, ...]
    predictor: Predictor | JointPredictor
