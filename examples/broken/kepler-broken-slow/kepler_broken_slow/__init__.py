"""Takes its time to be imported."""

import time

from kepler_core.contracts import FitTask, Regressor, Trainer

time.sleep(3)


class BrokenSlowTrainer(Trainer):
    """Works, once it is there."""

    def regressor(self, task: FitTask) -> Regressor:
        from sklearn.linear_model import LinearRegression

        return LinearRegression(positive=True)
