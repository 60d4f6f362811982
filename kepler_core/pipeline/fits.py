"""The fits of one training, and access to its AbsPower models for isolators."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.fit import FitJob, FitResult
from kepler_core.pipeline.report import described
from kepler_core.plugins.hooks import Hooks


class Fits:
    """Runs the fits of one training and calls the listeners after each fit.

    `run` is a function that fits jobs, and yields each result with the index of its job, in any order.
    """

    def __init__(
        self,
        run: Callable[[Sequence[FitJob]], Iterator[tuple[int, FitResult]]],
        listeners: Hooks,
        node_types: int = 1,
    ) -> None:
        self._run = run
        self._node_types = node_types
        self._listeners = listeners
        self._started = False

    def results(self, jobs: Sequence[FitJob], later: int = 0) -> list[FitResult]:
        """Fit all jobs and return their results in the order of the jobs.

        `later` is the number of further fits that the training plans after these jobs; listeners that show
        progress need the total number of fits.
        """
        if not jobs:
            return []
        if not self._started:
            self._started = True
            self._listeners.call("kepler_training_started", models=(len(jobs) + later) * self._node_types)
        results: dict[int, FitResult] = {}
        for index, result in self._run(jobs):
            results[index] = result
            self._listeners.call("kepler_model_trained", model=described(result))
        return [results[index] for index in range(len(jobs))]


class AbsModels:
    """Finds the AbsPower model with the lowest validation error for an energy source and a tuple of features."""

    def __init__(self, jobs: Sequence[FitJob], results: Sequence[FitResult]) -> None:
        self._results: dict[tuple[str, tuple[str, ...]], list[FitResult]] = {}
        for job, result in zip(jobs, results, strict=True):
            self._results.setdefault((job.rows.source, job.rows.features), []).append(result)

    def __call__(self, dataset: Dataset) -> PowerModel:
        """Return the best model for a data set's source and features; raise `PluginError` if there is no such model."""
        results = self._results.get((dataset.source, dataset.features))
        if not results:
            raise PluginError(
                f"needs an AbsPower model of {dataset.source} from {', '.join(dataset.features)}, and the pipeline "
                "trains none: name trainers in abs_trainers"
            )
        return best_model(results)


def best_model(results: Sequence[FitResult]) -> PowerModel:
    """Load the model with the lowest validation error; raise `PluginError` if every fit failed."""
    trained = [result for result in results if result.files is not None]
    if not trained:
        raise PluginError(f"no AbsPower model could be trained: {reasons([{'reason': r.reason} for r in results])}")
    best = min(trained, key=lambda result: float(result.metadata["mae"]))
    assert best.files is not None
    return load_model(best.files, str(best.metadata["model_name"]))


def reasons(failures: Sequence[Mapping[str, Any]]) -> str:
    """Return the distinct reasons of failed fits, at most three, as one text for an error message."""
    distinct = list(dict.fromkeys(str(failure["reason"]) for failure in failures))
    return "; ".join(distinct[:3]) + ("; …" if len(distinct) > 3 else "") or "the pipeline names no source or group"
