"""Compare challengers with the champion on samples on which neither model was trained.

The champion is the served model at a path in the pipeline. The challengers are the candidates at the same path. A
*gain* is the mean error of the champion minus the mean error of the challenger. If the challenger has the larger error,
the difference is called a *loss*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.store.models import StoredModel
from kepler_servers.online_trainer.retraining.candidates import Candidate
from kepler_servers.online_trainer.retraining.evaluation import Evaluation, Evaluator
from kepler_servers.online_trainer.retraining.holdout import MIN_SAMPLES
from kepler_servers.online_trainer.standard_error import SIGNIFICANT_ERRORS, mean_and_standard_error

MIN_GAIN = 0.02
"""A challenger is better only if its gain is larger than this fraction of the champion's error."""
COMPONENT_LOSS = 0.05
"""A component's error may be higher for the challenger by this fraction of the champion's error for the component."""
COMPONENT_LOSS_WATTS = 0.1
"""A component's error may always be higher for the challenger than for the champion by this number of watts."""
IDLE_LOSS_WATTS = 0.5
"""A component's error at idle may always be higher for the challenger by this number of watts."""
IDLE_LOSS_OF_POWER = 0.02
"""A component's error at idle may be higher for the challenger by this fraction of the component's mean power."""
IDLE_LOSS_OF_GAIN = 0.2
"""A component's error at idle may be higher for the challenger by this fraction of the challenger's gain.

For example, if the challenger's error over all samples is five watts lower, its error at idle may be one watt higher.
"""


@attrs.frozen
class Comparison:
    """Result of comparing a challenger with the champion."""

    better: bool
    reason: str
    gain: float
    """Champion's error minus challenger's error in watts, summed over all components."""
    needed: float | None = None
    """The value that `gain` must exceed, in watts; None if the errors of the two models were not compared."""


@attrs.frozen
class CandidateResult:
    """A candidate, its evaluation, and the result of its comparison with the served model."""

    path: str
    candidate: Candidate
    served: Evaluation | None
    """Evaluation of the served model (champion); None if there is no served model or it cannot be evaluated."""
    evaluation: Evaluation | None
    comparison: Comparison

    def as_dict(self) -> dict[str, Any]:
        """Return this result as a JSON object, which becomes a part of the recorded decision."""
        return {
            "path": self.path,
            "kind": self.candidate.kind,
            "better": self.comparison.better,
            "reason": self.comparison.reason,
            "gain": round(self.comparison.gain, 3),
            "needed": None if self.comparison.needed is None else round(self.comparison.needed, 3),
            "served": None if self.served is None else self.served.as_dict(),
            "new": None if self.evaluation is None else self.evaluation.as_dict(),
        }


def compare_candidates(
    evaluator: Evaluator, served: Mapping[str, StoredModel], candidates: Mapping[str, Sequence[Candidate]]
) -> list[CandidateResult]:
    """Compare each candidate with the served model of the same path.

    The returned list begins with the candidates that are better than the served model.
    """
    results = []
    for path, of_path in sorted(candidates.items()):
        champion = served.get(path)
        champion_evaluation = None
        if champion is not None and champion.portable:
            champion_evaluation = evaluator.evaluate(champion)
        for candidate in of_path:
            evaluation = evaluator.evaluate(candidate)
            comparison = _compare(champion, champion_evaluation, evaluation)
            results.append(CandidateResult(path, candidate, champion_evaluation, evaluation, comparison))
    results.sort(key=lambda result: not result.comparison.better)
    return results


def best_by_path(results: Sequence[CandidateResult]) -> dict[str, CandidateResult]:
    """For each path, return the candidate that is better than the served model and has the highest gain.

    Paths without such a candidate are left out.
    """
    best: dict[str, CandidateResult] = {}
    for result in results:
        if result.comparison.better and (
            result.path not in best or result.comparison.gain > best[result.path].comparison.gain
        ):
            best[result.path] = result
    return best


def _compare(
    champion: StoredModel | None, champion_evaluation: Evaluation | None, evaluation: Evaluation | None
) -> Comparison:
    if champion is None:
        return Comparison(True, "no model is served at this path", 0.0)
    if not champion.portable:
        return Comparison(False, "the served model cannot be loaded, so it cannot be compared", 0.0)
    if evaluation is None or champion_evaluation is None:
        return Comparison(False, f"fewer than {MIN_SAMPLES} new samples to evaluate on", 0.0)
    return compare(champion_evaluation, evaluation)


def compare(champion: Evaluation, challenger: Evaluation) -> Comparison:
    """Compare two models on the samples on which both models were evaluated.

    The challenger is better if its error, summed over all components, is significantly lower than the champion's error.
    In addition, the challenger's error for each single component must not be significantly higher. This applies to all
    samples together, and to the idle samples alone.
    """
    common = set(champion.samples) & set(challenger.samples)
    if len(common) < MIN_SAMPLES:
        return Comparison(False, f"only {len(common)} samples on which both models could be evaluated", 0.0)
    champion, challenger = champion.subset(common), challenger.subset(common)
    if missing := [component for component in champion.predicted if component not in challenger.predicted]:
        return Comparison(False, f"the new model has no {', '.join(missing)}", 0.0)
    before = champion.total_error()
    mean_before = float(before.mean())
    gain, needed = _gain(champion, challenger)
    watts = f"{mean_before:.2f} W with the served model, {mean_before - gain:.2f} W with the new model"
    if not gain > needed:
        result = "no better" if gain <= 0 else "not significantly better"
        reason = f"{result} on {len(common)} new samples: {watts}; a gain of {needed:.2f} W is needed"
        return Comparison(False, reason, gain, needed)
    if (loss := _component_loss(champion, challenger) or _idle_loss(champion, challenger, gain)) is not None:
        return Comparison(False, f"{loss} ({watts})", gain, needed)
    return Comparison(True, f"better on {len(common)} new samples: {watts}", gain, needed)


def _gain(champion: Evaluation, challenger: Evaluation) -> tuple[float, float]:
    """Return how much lower the challenger's error is, and the limit above which this is significant, in watts."""
    before = champion.total_error()
    gains = before - challenger.total_error()
    gain, error = mean_and_standard_error(gains)
    only_champion_extrapolates = champion.is_extrapolated & ~challenger.is_extrapolated
    if only_champion_extrapolates.any() and gains[only_champion_extrapolates].mean() > 0:
        # Some samples are above the champion's training range, but not above the challenger's. The challenger has lower
        # errors on these samples. This gain is not noise, so it need not exceed the standard error.
        error = 0.0
    return gain, max(SIGNIFICANT_ERRORS * error, MIN_GAIN * float(before.mean()))


def _component_loss(champion: Evaluation, challenger: Evaluation) -> str | None:
    """Return an explanation if the challenger is significantly worse for any component, else None."""
    for component, measured in champion.measured.items():
        champion_error = np.abs(champion.predicted[component] - measured)
        challenger_error = np.abs(challenger.predicted[component] - challenger.measured[component])
        loss, error = mean_and_standard_error(challenger_error - champion_error)
        tolerated = max(SIGNIFICANT_ERRORS * error, COMPONENT_LOSS * float(champion_error.mean()), COMPONENT_LOSS_WATTS)
        if loss > tolerated:
            return f"{component} is worse by {loss:.2f} W"
    return None


def _idle_loss(champion: Evaluation, challenger: Evaluation, gain: float) -> str | None:
    """Return an explanation if the challenger is significantly worse for any component at idle, else None."""
    before, after = champion.errors(), challenger.errors()
    for component, measured in champion.measured.items():
        loss = abs(after[component]["idle_error"]) - abs(before[component]["idle_error"])
        power = float(np.mean(measured))
        if loss > max(IDLE_LOSS_WATTS, IDLE_LOSS_OF_POWER * power, IDLE_LOSS_OF_GAIN * gain):
            return f"{component} at idle is worse by {loss:.2f} W"
    return None
