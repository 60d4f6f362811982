"""Ridge regression as a trainer of Kepler Core."""

from __future__ import annotations

from sklearn.linear_model import Ridge

from kepler_core.contracts import FitTask, Regressor, Trainer


class RidgeRegressorTrainer(Trainer):
    """Least-squares regression with a penalty on the squared weights (scikit-learn's Ridge).

    An idle container has a dynamic power of 0 W, so DynPower models are fitted without an intercept.
    """

    def __init__(self, alpha: float = 1.0) -> None:
        if alpha < 0:
            raise ValueError(f"alpha must be at least 0, not {alpha}")
        self.alpha = alpha

    def regressor(self, task: FitTask) -> Regressor:
        return Ridge(alpha=self.alpha, fit_intercept=task.output_type == "AbsPower")  # type: ignore[no-any-return]
