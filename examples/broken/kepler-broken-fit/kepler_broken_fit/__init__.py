"""Is imported and made without a complaint, and then does its worst."""

import os

from kepler_core.contracts import FitTask, Regressor, Trainer


class Raises:
    """Cannot be fitted."""

    def fit(self, X, y):
        raise RuntimeError("the matrix is not to my liking")

    def predict(self, X):
        return X[:, 0]


class EndsTheProcess(Raises):
    """Takes its process with it."""

    def fit(self, X, y):
        os._exit(9)


class BrokenFitTrainer(Trainer):
    """Raises in fit."""

    def regressor(self, task: FitTask) -> Regressor:
        return Raises()


class BrokenProcessTrainer(Trainer):
    """Ends the process in fit."""

    def regressor(self, task: FitTask) -> Regressor:
        return EndsTheProcess()
