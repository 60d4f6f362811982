"""All fits of one training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from kepler_core.errors import PluginError
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.fit import FitJob, FitResult
from kepler_core.pipeline.report import described
from kepler_core.plugins.hooks import Events


class Fits:
    """The fits of one training, each done once whoever asks for it first."""

    def __init__(
        self,
        run: Callable[[Sequence[FitJob]], Iterator[tuple[int, FitResult]]],
        listen: Events,
        expected: int,
    ) -> None:
        self._run = run
        self._listen = listen
        self._expected = expected
        self._done: dict[FitJob, FitResult] = {}
        self._started = False

    def results(self, work: Sequence[FitJob]) -> list[FitResult]:
        """The results, in the order of the jobs."""
        todo = [job for job in work if job not in self._done]
        if not self._started:
            self._started = True
            self._listen.send("kepler_training_started", models=self._expected)
        for index, result in self._run(todo) if todo else ():
            self._done[todo[index]] = result
            self._listen.send("kepler_model_trained", model=described(result))
        return [self._done[job] for job in work]

    def expect(self, models: int) -> None:
        """So many fits in all, if none has begun yet."""
        self._expected = models


def best_model(results: Sequence[FitResult]) -> PowerModel:
    """The model with the lowest validation error; `PluginError` if none could be trained."""
    done = [result for result in results if result.files is not None]
    if not done:
        raise PluginError(f"no AbsPower model could be trained: {reasons([{'reason': r.reason} for r in results])}")
    best = min(done, key=lambda result: float(result.metadata["mae"]))
    assert best.files is not None
    return load_model(best.files, str(best.metadata["model_name"]))


def reasons(skipped: Sequence[Mapping[str, Any]]) -> str:
    seen = dict.fromkeys(str(skip["reason"]) for skip in skipped)
    shown = list(seen)[:3]
    return "; ".join(shown) + ("; …" if len(seen) > 3 else "") or "the pipeline names nothing"
