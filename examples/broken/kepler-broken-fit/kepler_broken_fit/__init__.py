"""Has trainers that fail in `fit` only."""

import os

from kepler_core.contracts import FitTask, Regressor, Trainer


class Raises:
    """Raises in `fit`."""

    def fit(self, X, y):
        raise RuntimeError("the matrix is not to my liking")

    def predict(self, X):
        return X[:, 0]


class EndsTheProcess(Raises):
    """Ends its process in `fit`."""

    def fit(self, X, y):
        os._exit(9)


class BrokenFitTrainer(Trainer):
    """Returns a regressor that raises in `fit`."""

    def regressor(self, task: FitTask) -> Regressor:
        return Raises()


class BrokenProcessTrainer(Trainer):
    """Returns a regressor that ends its process in `fit`."""

    def regressor(self, task: FitTask) -> Regressor:
        return EndsTheProcess()
