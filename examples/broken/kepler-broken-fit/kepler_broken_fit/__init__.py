"""Trainers whose regressors can be created, but fail in `fit`."""

import os

from kepler_core.contracts import FitTask, Regressor, Trainer


class Raises:
    """A regressor that raises an exception in `fit`."""

    def fit(self, X, y):
        raise RuntimeError("the matrix is not to my liking")

    def predict(self, X):
        return X[:, 0]


class EndsTheProcess(Raises):
    """A regressor that ends its process in `fit`."""

    def fit(self, X, y):
        os._exit(9)


class BrokenFitTrainer(Trainer):
    """A trainer whose regressor raises an exception in `fit`."""

    def regressor(self, task: FitTask) -> Regressor:
        return Raises()


class BrokenProcessTrainer(Trainer):
    """A trainer whose regressor ends its process in `fit`."""

    def regressor(self, task: FitTask) -> Regressor:
        return EndsTheProcess()
