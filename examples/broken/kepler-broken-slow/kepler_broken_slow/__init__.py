"""Takes 3 seconds to import."""

import time

from kepler_core.contracts import FitTask, Regressor, Trainer

time.sleep(3)


class BrokenSlowTrainer(Trainer):
    """Works after its slow import."""

    def regressor(self, task: FitTask) -> Regressor:
        from sklearn.linear_model import LinearRegression

        return LinearRegression(positive=True)
