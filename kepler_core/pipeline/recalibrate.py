"""Recalibrate the AbsPower models of a pipeline with a short metered recording of another machine or day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.errors import TrainingError, UsageError, close_matches
from kepler_core.honesty.document import read_honesty
from kepler_core.models.power_model import PowerModel
from kepler_core.models.recalibration import Correction, recalibrated
from kepler_core.pipeline.fits import Fits
from kepler_core.pipeline.kept_rows import NodeRows, kept_rows_file, node_rows, read_kept_rows
from kepler_core.pipeline.next_version import Model, next_version_files, read_files, timestamp
from kepler_core.pipeline.parallel import Backend, fit_all
from kepler_core.pipeline.recalibration_candidates import (
    LINEAR,
    Candidate,
    Group,
    as_is,
    check_rows,
    fit_jobs,
    from_result,
)
from kepler_core.pipeline.twins import with_twins
from kepler_core.plugins import registry
from kepler_core.plugins.hooks import Hooks
from kepler_core.recording.observations import Observations
from kepler_core.store.models import StoredModel, read_models
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store

MODELS = 3
"""Number of trainers that are recalibrated in each feature group. The trainers with the lowest errors are chosen."""


@attrs.define
class Recalibration:
    """The result of a recalibration, as `kepler-model recalibrate --json` prints it."""

    pipeline: str
    version: int
    kind: str
    """"recalibrated": models were fitted to a metered recording. "idle": only the idle power was corrected."""
    time: str
    rows: int
    """Number of timestamps of the metered recording."""
    chosen: list[dict[str, Any]]
    """The path and the chosen candidate of each model that was replaced or whose stated errors were replaced, with the
    candidate's errors."""
    candidates: list[dict[str, Any]]
    """All candidates with their errors."""

    def as_dict(self) -> dict[str, Any]:
        """Return the decision, in the form in which the store records it."""
        return {"decision": "published", "reason": self.reason, **attrs.asdict(self)}

    @property
    def reason(self) -> str:
        """Return one line that states what was published."""
        if self.kind == "idle":
            return f"the idle power of {len(self.chosen)} models was corrected"
        refitted = sum(entry["candidate"] != "as is" for entry in self.chosen)
        return f"{refitted} of {len(self.chosen)} models were fitted to {self.rows} metered timestamps"


def recalibrate(
    store: Store,
    pipeline: str,
    observations: Observations,
    *,
    listeners: Hooks,
    source: str | None = None,
    feature_group: str | None = None,
    models: int = MODELS,
    backend: Backend = "loky",
    jobs: int | None = None,
) -> Recalibration:
    """Fit the AbsPower models of a pipeline to metered observations, and publish the result as a new version.

    In each feature group, the `models` models with the lowest errors are recalibrated. The other models of the
    feature group stay the same, but the new version states their errors on the new rows. `source` and `feature_group`
    limit the models; None means no limit. The store is not changed before all fits have ended.

    Raises `TrainingError` if the observations do not suffice for any model.
    """
    store.check_writable(pipeline)
    snapshot = store.snapshot(pipeline)
    digest = observations.digest
    new = node_rows(observations)
    groups = _groups(snapshot, new, source, feature_group)
    trainers = _trainers(snapshot)
    served: list[Candidate] = []
    work: list[tuple[Group, str, Any, Any]] = []
    for group in groups:
        served += [as_is(model, group, digest) for model in group.models]
        best = dict.fromkeys([*(model.trainer for model in group.models[:models]), LINEAR])
        arguments = {name: trainers.get(name, {}) for name in best}
        work += [(group, *key, job) for key, job in fit_jobs(group, arguments, digest, 0).items()]
    fits = Fits(partial(fit_all, backend=backend, scheduler=None, jobs=jobs), listeners)
    results = fits.results([job for *_, job in work])
    candidates = list(served)
    for (group, trainer, kind, job), result in zip(work, results, strict=True):
        path = f"{group.first.path.rpartition('/')[0]}/{trainer.rpartition(':')[2]}_{group.first.node_type}"
        if (candidate := from_result(kind, path, job, result)) is not None:
            candidates.append(candidate)
    best_of = _best(candidates)
    replaced = _models(best_of)
    kept = {model.path: (model.metadata, read_files(model)) for model in read_models(snapshot)}
    recalibration = Recalibration(
        pipeline,
        store.next_version(pipeline),
        "recalibrated",
        timestamp(),
        len(np.unique(new.time)),
        [best_of[path].as_dict() for path in sorted(best_of)],
        [candidate.as_dict() for candidate in candidates],
    )
    return _publish(store, snapshot, {**kept, **replaced}, recalibration)


def correct_idle(store: Store, pipeline: str, idle_watts: Mapping[str, float]) -> Recalibration:
    """Shift the AbsPower models of a pipeline so that their idle power is `idle_watts`, and publish the result.

    `idle_watts` maps components to watts.

    The dynamic part of the predictions stays the same. Raises `TrainingError` if no AbsPower model has any of these
    components.
    """
    store.check_writable(pipeline)
    snapshot = store.snapshot(pipeline)
    models: dict[str, Model] = {}
    chosen = []
    for entry in read_models(snapshot):
        files = read_files(entry)
        models[entry.path] = (entry.metadata, files)
        if entry.output_type != "AbsPower" or not entry.portable:
            continue
        corrections = idle_corrections(entry, entry.load(), idle_watts)
        if corrections:
            changed = recalibrated(files, corrections)
            models[entry.path] = (msgspec.json.decode(changed["metadata.json"]), changed)
            shifts = {component: correction.shift for component, correction in corrections.items()}
            chosen.append({"model": entry.path, "candidate": "idle", "shift": shifts})
    if not chosen:
        raise TrainingError(f"no AbsPower model of {pipeline} has the component {' or '.join(idle_watts)}")
    recalibration = Recalibration(pipeline, store.next_version(pipeline), "idle", timestamp(), 0, chosen, [])
    return _publish(store, snapshot, models, recalibration)


def idle_corrections(entry: StoredModel, model: PowerModel, idle_watts: Mapping[str, float]) -> dict[str, Correction]:
    """Return, by component, the correction that makes a model predict `idle_watts` at the lowest load of its training.

    A component that the model lacks is left out. At the lowest load, each feature has its lowest value in the training.
    If this value is not known, it counts as 0.
    """
    honesty = read_honesty(entry.metadata)
    lowest = [0.0 if honesty is None else honesty.seen.features.get(name, (0.0, 0.0))[0] for name in model.features]
    predicted = model.predict(np.array([lowest]))
    return {
        component: Correction(1.0, watts - float(predicted[component][0]))
        for component, watts in idle_watts.items()
        if component in predicted
    }


def _groups(snapshot: Snapshot, new: NodeRows, source: str | None, feature_group: str | None) -> list[Group]:
    """Return the groups of models whose features and power are in the new rows.

    Raises `TrainingError` if there is no such group.
    """
    by_key: dict[tuple[str, str, int], list[StoredModel]] = {}
    for model in read_models(snapshot):
        if model.output_type == "AbsPower" and model.portable:
            by_key.setdefault((model.source, model.feature_group, model.node_type), []).append(model)
    names = {key[1] for key in by_key}
    if feature_group is not None and feature_group not in names:
        raise UsageError(
            f"no AbsPower model of the feature group {feature_group!r}; {close_matches(feature_group, names)}"
        )
    if source is not None:
        source = registry.energy_sources.entry(source).name
    groups, problems = [], []
    for (model_source, group_name, node_type), models in by_key.items():
        if source not in (None, model_source) or feature_group not in (None, group_name):
            continue
        first = models[0]
        power = [f"{model_source}/{component}" for component in first.load().components]
        rows = new.complete(first.features, power)
        try:
            if rows is None:
                raise TrainingError(f"the metered recording lacks features or power of {model_source} {group_name}")
            check_rows(rows)
        except TrainingError as error:
            problems.append(str(error))
            continue
        old = _old_rows(snapshot, node_type)
        known = None if old is None else old.complete(first.features, power)
        ordered = sorted(models, key=lambda model: _error(model))
        groups.append(Group(ordered, rows, known if known is not None and len(known.time) else None))
    if not groups:
        reasons = "; ".join(dict.fromkeys(problems)) or "the pipeline has no AbsPower model that Kepler Core stored"
        raise TrainingError(f"nothing can be recalibrated: {reasons}")
    return groups


def _error(model: StoredModel) -> float:
    honesty = read_honesty(model.metadata)
    errors = None if honesty is None else honesty.splits[honesty.hardest]
    return float(model.metadata.get("mae") or np.inf) if errors is None else errors.mae


def _old_rows(snapshot: Snapshot, node_type: int) -> NodeRows | None:
    name = kept_rows_file(node_type)
    if name not in snapshot.names:
        return None
    return read_kept_rows(snapshot.read(name), f"{snapshot.where}/{name}")


def _trainers(snapshot: Snapshot) -> dict[str, Mapping[str, Any]]:
    """Return the arguments of each trainer of AbsPower models in the pipeline, by the trainer's name.

    The names do not contain the distribution.
    """
    pipeline = snapshot.read_json("metadata.json").get("pipeline")
    entries = pipeline.get("abs_trainers", []) if isinstance(pipeline, dict) else []
    named = [entry if isinstance(entry, dict) else {"name": entry} for entry in entries]
    return {str(entry["name"]).rpartition(":")[2]: entry.get("args") or {} for entry in named}


def _best(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Return the candidate with the lowest error for each path. Of candidates with equal errors, return the first."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.path not in best or candidate.errors.mae < best[candidate.path].errors.mae:
            best[candidate.path] = candidate
    return best


def _models(best: Mapping[str, Candidate]) -> dict[str, Model]:
    """Return the models to publish, by path. The twin of a fitted model is chosen among the fitted models."""
    models = {path: candidate.model for path, candidate in best.items()}
    fitted = {path: candidate.result for path, candidate in best.items() if candidate.result is not None}
    jobs, results = [job for job, _ in fitted.values()], [result for _, result in fitted.values()]
    for path, result in zip(fitted, with_twins(jobs, results), strict=True):
        assert result.files is not None  # `from_result` leaves out failed fits
        models[path] = (msgspec.json.decode(result.files["metadata.json"]), result.files)
    return models


def _publish(
    store: Store, snapshot: Snapshot, models: Mapping[str, Model], recalibration: Recalibration
) -> Recalibration:
    files = next_version_files(snapshot, models, {"recalibration": recalibration.as_dict()})
    version = store.publish(recalibration.pipeline, files, version=recalibration.version)
    store.record_decision(recalibration.pipeline, recalibration.as_dict())
    return attrs.evolve(recalibration, version=version)
