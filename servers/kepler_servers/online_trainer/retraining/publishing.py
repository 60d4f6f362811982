"""Publish a new version with the better models, or record the reason in the decision if nothing is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from kepler_core.errors import ModelError, VersionTakenError
from kepler_core.pipeline.next_version import Model, next_version_files, read_files
from kepler_core.pipeline.twins import twin_of, with_description
from kepler_core.store import Snapshot, Store
from kepler_core.store.layout import REPORT_FILE
from kepler_core.store.models import StoredModel
from kepler_core.store.scores import hardest_error, read_scores
from kepler_servers.online_trainer.retraining.candidates import Candidate, Candidates
from kepler_servers.online_trainer.retraining.comparison import CandidateResult
from kepler_servers.online_trainer.retraining.inputs import ONLINE_KEY, ServedModels


@attrs.frozen
class Outcome:
    """The results of a retraining that determine which models are published."""

    candidates: Candidates
    results: Sequence[CandidateResult]
    winners: Mapping[str, Candidate]
    """Candidates that are better than the served models at the same paths. The keys are these paths."""
    restated: Mapping[str, Model]
    """Models whose stated errors were increased (see the module `restated_errors`). The keys are their paths."""

    def failure(self) -> dict[str, Any]:
        """Return the members that a decision gets if nothing is published."""
        reasons = [result.comparison.reason for result in self.results]
        reason = reasons[0] if reasons else self.candidates.problem or "no model could be trained"
        return {"decision": "kept aside" if self.results else "failed", "version": None, "reason": reason}


def publish_better(
    store: Store,
    pipeline: str,
    served: ServedModels,
    outcome: Outcome,
    decision: dict[str, Any],
    page_of: Callable[[Mapping[str, Any]], bytes | None],
) -> None:
    """Publish a new version if there are better models, or if changed stated errors make other served models the best.

    The retraining may have increased the stated errors of served models (`Outcome.restated`).

    The function adds the members that describe the outcome to `decision`. `page_of` returns the page of a decision for
    the published version, or None if there is no page.
    """
    changed = _best_models(served.own, {}) ^ _best_models(served.own, outcome.restated)
    base = outcome.candidates.base
    if not outcome.winners and not changed:
        decision |= outcome.failure()
        if base is not None and served.snapshot is not None and base is not served.snapshot:
            decision["aside"] = base.version
        return
    assert base is not None  # without any version, there are no better and no changed models
    decision |= {"decision": "published", "reason": _reason(outcome, changed)}
    files = _compose(base, served, outcome, decision)
    if (page := page_of({**decision, "version": served.slot.next_version})) is not None:
        files[REPORT_FILE] = page
    try:
        decision["version"] = store.publish(pipeline, files, version=served.slot.next_version)
    except VersionTakenError:
        reason = "another version was published during the retraining; the new models were not compared with it"
        decision |= {"decision": "kept aside", "version": None, "reason": reason}


def _best_models(served: Mapping[str, StoredModel], restated: Mapping[str, Model]) -> set[str]:
    """Return the path of the model with the lowest stated error for each source, output type and feature group.

    `restated` maps paths to models whose stated errors differ from the errors in `served`.
    """
    best: dict[tuple[str, str, str], tuple[float, str]] = {}
    for path, entry in served.items():
        error = hardest_error(read_scores(restated[path][0], ()) if path in restated else entry.scores)
        if entry.portable and error is not None:
            key = entry.source, entry.output_type, entry.feature_group
            best[key] = min(best.get(key, (float("inf"), "")), (error, path))
    return {path for _, path in best.values()}


def _reason(outcome: Outcome, changed: set[str]) -> str:
    if not outcome.winners:
        return f"on all stored samples, other models have the lowest errors: {', '.join(sorted(changed))}"
    kinds = sorted({winner.kind for winner in outcome.winners.values()})
    reason = next(result.comparison.reason for result in outcome.results if result.comparison.better)
    return f"{len(outcome.winners)} {' and '.join(kinds)}: {reason}"


def _compose(base: Snapshot, served: ServedModels, outcome: Outcome, decision: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the contents of the files of the next version, by file name.

    The models are the new, better models, and the served models at all other paths. All other files, such as the
    profiles of node types, come from `base`.
    """
    kept = {path: entry for path, entry in served.all.items() if path not in outcome.winners}
    trained_until = {path: served.trained_until.get(path, -1.0) for path in kept}
    trained_until |= {path: winner.trained_until for path, winner in outcome.winners.items()}
    models: dict[str, Model] = {path: (entry.metadata, read_files(entry)) for path, entry in kept.items()}
    models |= {path: (winner.metadata, winner.files) for path, winner in outcome.winners.items()}
    models |= outcome.restated
    models |= _without_twins(models, {path: winner.kind for path, winner in outcome.winners.items()})
    return next_version_files(base, models, {ONLINE_KEY: {"trained_until": trained_until, "decision": decision}})


def _without_twins(models: Mapping[str, Model], kinds: Mapping[str, str]) -> dict[str, Model]:
    """Remove the twin from each model that must be published without it. Return these models by path.

    A twin is a second model that checks a model. The predictions of both may differ up to limits, which were measured
    between two models of the same training. The limits are not valid if only one of the two models is new in this
    version, or if one is retrained and the other is recalibrated. `kinds` has the kind of each new model.
    """
    changed = {}
    for path, (metadata, files) in models.items():
        try:
            twin = twin_of(metadata)
        except ModelError:  # the block `honesty`, which names the twin, is malformed: the twin is not used
            continue
        if twin is not None and (twin[0] not in models or kinds.get(path) != kinds.get(twin[0])):
            changed[path] = with_description(files, None)
    return changed
