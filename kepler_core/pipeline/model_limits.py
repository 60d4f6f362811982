"""The limits that a fitted regressor will have as a stored model: the limits of its features, and of its power.

Held-out predictions and the gains of DynPower models are computed with these limits, so that they equal the predictions
and gains of the stored model (`kepler_core.models.power_model`).
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import Regressor
from kepler_core.models.export import proportional_feature
from kepler_core.models.power_model import FEATURE_LIMIT, PROPORTIONAL_LIMIT, ceiling_of


@attrs.frozen(eq=False)
class ModelLimits:
    """The limits of one component of a stored model."""

    features: FloatArray
    """Largest absolute value of each feature, in the unit of the rows that the regressor was fitted to."""
    ceiling: float
    """Upper limit of the power in watts."""

    def cut(self, X: FloatArray) -> FloatArray:
        """Return features, shape (rows, features); a value beyond a limit is replaced by the limit."""
        return np.clip(X, -self.features, self.features)


def model_limits(
    regressor: Regressor,
    component: str,
    features: Sequence[str],
    model_format: str | None,
    X: FloatArray,
    watts: FloatArray,
) -> ModelLimits:
    """Return the limits of a regressor that was fitted to rows X, shape (rows, features), and `watts`, shape (rows,).

    `features` are the names of the columns of X, and `model_format` is `Trainer.model_format`. Raises `ModelError` if
    no model format supports the regressor.
    """
    proportional = proportional_feature(component, regressor, features, model_format)
    factors = [PROPORTIONAL_LIMIT if name == proportional else FEATURE_LIMIT for name in features]
    return ModelLimits(np.abs(X).max(axis=0) * factors, ceiling_of(float(watts.max()), proportional))
