"""A plugin module whose import takes 3 seconds."""

import time

from kepler_core.contracts import FitTask, Regressor, Trainer

time.sleep(3)


class BrokenSlowTrainer(Trainer):
    """A trainer that works, although the import of its module is slow."""

    def regressor(self, task: FitTask) -> Regressor:
        from sklearn.linear_model import LinearRegression

        return LinearRegression(positive=True)
