"""Train the winners of a comparison once more before they are published.

The second time, they are trained on all samples, including the held-out samples.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kepler_core.errors import TrainingError
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.plugins import registry
from kepler_core.recording.observations import Observations
from kepler_servers.online_trainer.retraining.candidates import Candidate, ChallengerTrainer
from kepler_servers.online_trainer.retraining.comparison import MIN_GAIN, CandidateResult
from kepler_servers.online_trainer.retraining.evaluation import Evaluator

log = logging.getLogger(__name__)


def refit_winners(
    winners: Mapping[str, CandidateResult],
    spec: PipelineSpec,
    observations: Observations,
    evaluator: Evaluator,
    trainer: ChallengerTrainer,
) -> dict[str, Candidate]:
    """Train the better challengers once more, on all observations. Return the new models by path.

    Recalibrated models are not trained. The held-out samples are the newest samples, and may be the only samples that
    show how the machine behaves now. If the new model is worse than the challenger on these samples, although it was
    trained on them, it is left out of the result. Then the challenger itself is published.
    """
    evaluations = {
        path: winner.evaluation
        for path, winner in winners.items()
        if winner.candidate.kind == "retrained" and winner.evaluation is not None
    }
    if not evaluations:
        return {}
    try:
        needed = _restrict(spec, [winners[path].candidate.metadata for path in evaluations])
        _, refitted = trainer.train(needed, observations)
    except TrainingError as error:
        log.warning("the better models could not be trained again on all samples: %s", error)
        return {}
    accepted = {}
    for path, evaluation in evaluations.items():
        again = evaluator.evaluate(refitted[path]) if path in refitted else None
        limit = (1 + MIN_GAIN) * evaluation.total_error().mean()
        if again is not None and again.total_error().mean() <= limit:
            accepted[path] = refitted[path]
    return accepted


def _restrict(spec: PipelineSpec, metadata: Sequence[Mapping[str, Any]]) -> PipelineSpec:
    """Return the pipeline with only the energy sources, feature groups and trainers that `metadata` names."""
    trainers = {(m["output_type"], m["trainer"]) for m in metadata}

    def needed(output_type: str, plugins: Sequence[PluginSpec]) -> list[PluginSpec]:
        return [plugin for plugin in plugins if (output_type, registry.trainers.canonical(plugin.name)) in trainers]

    dyn_trainers = needed("DynPower", spec.dyn_trainers)
    return attrs.evolve(
        spec,
        energy_sources=sorted({m["source"] for m in metadata}),
        feature_groups=sorted({m["feature_group"] for m in metadata}),
        # An isolator for DynPower may use any AbsPower model. So train all AbsPower models if DynPower is trained.
        abs_trainers=spec.abs_trainers if dyn_trainers else needed("AbsPower", spec.abs_trainers),
        dyn_trainers=dyn_trainers,
    )
