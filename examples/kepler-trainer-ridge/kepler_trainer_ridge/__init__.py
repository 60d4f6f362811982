"""Ridge regression as a trainer of Kepler Core."""

from __future__ import annotations

from sklearn.linear_model import Ridge

from kepler_core.contracts import FitTask, Regressor, Trainer


class RidgeRegressorTrainer(Trainer):
    """Least squares with a penalty on the squared weights (scikit-learn's Ridge).

    An idle container has no dynamic power, so DynPower models have no intercept.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, not {alpha}")
        self.alpha = alpha

    def regressor(self, task: FitTask) -> Regressor:
        return Ridge(alpha=self.alpha, fit_intercept=task.output_type == "AbsPower")  # type: ignore[no-any-return]
