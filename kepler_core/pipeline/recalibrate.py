"""Recalibrate the AbsPower models of a pipeline with a short metered recording of another machine or day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.errors import TrainingError, UsageError, close_matches
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.models.recalibration import idle_corrections, recalibrated, widened
from kepler_core.pipeline.fits import Fits
from kepler_core.pipeline.kept_rows import MAX_ROWS, NodeRows, kept_rows_file, node_rows, read_kept_rows
from kepler_core.pipeline.next_version import Model, next_version_files, read_files, timestamp
from kepler_core.pipeline.parallel import Backend, fit_all
from kepler_core.pipeline.recalibration_candidates import (
    LINEAR,
    Candidate,
    Group,
    as_is,
    check_rows,
    earlier_error,
    fit_jobs,
    from_result,
)
from kepler_core.pipeline.targets import refuse_stored_vm_target
from kepler_core.pipeline.twins import twin_of, with_description, with_twins
from kepler_core.plugins import registry
from kepler_core.plugins.hooks import Hooks
from kepler_core.recording.observations import Observations
from kepler_core.recording.previous import with_previous
from kepler_core.store.models import StoredModel, read_models
from kepler_core.store.scores import hardest_error
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store
from kepler_core.vocabulary import PREVIOUS_SUFFIX

MODELS = 3
"""Number of trainers that are recalibrated in each feature group. The trainers with the lowest errors are chosen."""


@attrs.frozen
class Scope:
    """Conditions that a model has to fulfil to be recalibrated. An attribute that is None is no condition."""

    source: str | None = None
    feature_group: str | None = None
    node_type: int | None = None


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
    """For each recalibrated model: its path, the candidate that was chosen for it, and the candidate's errors. If the
    candidate is "as is", only the errors in the model's metadata were replaced."""
    candidates: list[dict[str, Any]]
    """All candidates with their errors."""
    notes: list[str]
    """Models that were left out and fits that failed, with the reasons."""

    def as_dict(self) -> dict[str, Any]:
        """Return the recalibration as the JSON object that the store records."""
        return {"decision": "published", "trigger": "recalibrate", "reason": self.reason, **attrs.asdict(self)}

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
    scope: Scope = Scope(),
    models: int = MODELS,
    backend: Backend = "loky",
    jobs: int | None = None,
) -> Recalibration:
    """Fit the AbsPower models of a pipeline to metered observations, and publish the result as a new version.

    In each feature group, at most `models` models are recalibrated: those with the lowest errors. All other models do
    not change, but the errors in their metadata are measured on the observations. Raises `TrainingError` if the
    observations do not suffice for any model, and `UsageError` if no model fulfils `scope`. The store is not changed
    before all fits have ended.
    """
    store.check_writable(pipeline)
    snapshot = store.snapshot(pipeline)
    refuse_stored_vm_target(snapshot, "the metered recording")
    selected = models_in(snapshot, scope)
    wanted = {name for model in selected for name in model.features}
    known = {name for name in wanted if name.removesuffix(PREVIOUS_SUFFIX) in observations.node_features}
    new = node_rows(with_previous(observations, sorted(known)))
    groups, notes = _groups(snapshot, new, selected)
    candidates, failures = _candidates(
        groups, models, observations.digest, _trainers(snapshot), listeners, backend, jobs
    )
    best_of = _best(candidates)
    recalibration = Recalibration(
        pipeline,
        store.next_version(pipeline),
        "recalibrated",
        timestamp(),
        len(np.unique(new.time)),
        [best_of[path].as_dict() for path in sorted(best_of)],
        [candidate.as_dict() for candidate in candidates],
        [*notes, *failures],
    )
    return _publish(store, snapshot, _models(snapshot, best_of), recalibration)


def _candidates(
    groups: Sequence[Group],
    models: int,
    digest: str,
    trainers: Mapping[str, Mapping[str, Any]],
    listeners: Hooks,
    backend: Backend,
    jobs: int | None,
) -> tuple[list[Candidate], list[str]]:
    """Return the candidates of all groups, and a message for each fit that failed."""
    candidates: list[Candidate] = []
    work: list[tuple[Group, str, Any, Any]] = []
    for group in groups:
        candidates += [as_is(model, group, digest) for model in group.models]
        best = dict.fromkeys([*(model.trainer for model in group.models[:models]), LINEAR])
        arguments = {name: trainers.get(name, {}) for name in best}
        work += [(group, *key, job) for key, job in fit_jobs(group, arguments, digest, 0).items()]
    fits = Fits(partial(fit_all, backend=backend, scheduler=None, jobs=jobs), listeners)
    results = fits.results([job for *_, job in work])
    failures = []
    for (group, trainer, kind, job), result in zip(work, results, strict=True):
        path = f"{group.first.path.rpartition('/')[0]}/{trainer.rpartition(':')[2]}_{group.first.node_type}"
        earlier = earlier_error([model for model in group.models if model.trainer == trainer])
        if (candidate := from_result(kind, path, job, result, earlier)) is not None:
            candidates.append(candidate)
        else:
            failures.append(f"{path}, candidate {kind}: {result.reason}")
    return candidates, failures


def correct_idle(store: Store, pipeline: str, idle_watts: Mapping[str, float], scope: Scope = Scope()) -> Recalibration:
    """Shift the AbsPower models of a pipeline so that they predict the watts `idle_watts` at idle, and publish them.

    `idle_watts` has the watts by component. The dynamic part of the predictions and the errors in the metadata do not
    change. Raises `UsageError` if no model fulfils `scope`. Raises `TrainingError` if none of these models has a
    component of `idle_watts`.
    """
    store.check_writable(pipeline)
    snapshot = store.snapshot(pipeline)
    selected = models_in(snapshot, scope)
    loaded = {entry.path: entry.load() for entry in selected}
    corrections = {path: made for path, model in loaded.items() if (made := idle_corrections(model, idle_watts))}
    if not corrections:
        raise TrainingError(f"no AbsPower model of {pipeline} has the component {' or '.join(idle_watts)}")
    models: dict[str, Model] = {}
    for entry in _own_models(snapshot):
        files = read_files(entry)
        if entry.path in corrections:
            files = recalibrated(files, corrections[entry.path])
        twin = twin_of(entry.table_row)
        if twin is not None and (entry.path in corrections or twin[0] in corrections):
            own, other = corrections.get(entry.path, {}), corrections.get(twin[0], {})
            models[entry.path] = with_description(files, widened(twin[1], own, other))
        elif entry.path in corrections:
            models[entry.path] = _model(files)
    chosen = [
        {"model": path, "candidate": "idle", "shift": {name: correction.shift for name, correction in made.items()}}
        for path, made in sorted(corrections.items())
    ]
    recalibration = Recalibration(pipeline, store.next_version(pipeline), "idle", timestamp(), 0, chosen, [], [])
    return _publish(store, snapshot, models, recalibration)


def models_in(snapshot: Snapshot, scope: Scope) -> list[StoredModel]:
    """Return the AbsPower models of a pipeline that fulfil `scope`. All of them belong to one node type.

    Raises `TrainingError` if Kepler Core has stored no AbsPower model. Raises `UsageError` if no model fulfils a
    condition, or if the models belong to several node types and `scope` names no node type.
    """
    models = _own_models(snapshot)
    if not models:
        raise TrainingError(f"{snapshot.where}: the pipeline has no AbsPower model that Kepler Core stored")
    conditions: dict[str, str | int | None] = {
        "source": None if scope.source is None else registry.energy_sources.entry(scope.source).name,
        "feature_group": scope.feature_group,
        "node_type": scope.node_type,
    }
    for attribute, value in conditions.items():
        values = {str(getattr(model, attribute)) for model in models}
        if value is None:
            continue
        models = [model for model in models if getattr(model, attribute) == value]
        if not models:
            option = "--" + attribute.replace("_", "-")
            raise UsageError(f"{option} {value}: no AbsPower model to recalibrate; {close_matches(str(value), values)}")
    types = sorted({model.node_type for model in models})
    if len(types) > 1:
        raise UsageError(
            f"the models belong to the node types {', '.join(map(str, types))}; name the node type of the machine: "
            "--node-type (kepler-model store show lists the models)"
        )
    return models


def _own_models(snapshot: Snapshot) -> list[StoredModel]:
    return [model for model in read_models(snapshot) if model.output_type == "AbsPower" and model.portable]


def _groups(snapshot: Snapshot, new: NodeRows, selected: Sequence[StoredModel]) -> tuple[list[Group], list[str]]:
    """Return the groups of models whose features and power are in the new rows, and a message for each other group.

    Raises `TrainingError` if there is no group.
    """
    by_key: dict[tuple[str, str], list[StoredModel]] = {}
    for model in selected:
        by_key.setdefault((model.source, model.feature_group), []).append(model)
    groups, problems, notes = [], [], []
    old = _old_rows(snapshot, selected[0].node_type)
    for (source, name), models in by_key.items():
        features = models[0].features
        power = [f"{source}/{component}" for component in models[0].load().components]
        rows = new.complete(features, power)
        try:
            if rows is None:
                missing = [*(set(features) - new.features.keys()), *(set(power) - new.power.keys())]
                raise TrainingError(f"the metered recording lacks {', '.join(sorted(missing))}")
            check_rows(rows)
        except TrainingError as error:
            problems.append(f"{source} {name}: {error}")
            continue
        known = None if old is None else old.complete(features, power)
        if known is None or not len(known.time):
            reason = "has no rows of the training" if old is None else "has no rows of the training with these features"
            notes.append(f"{source} {name}: the pipeline {reason}, so no fit uses earlier rows")
            known = None
        groups.append(Group(sorted(models, key=_error), rows.thinned(MAX_ROWS), known))
    if not groups:
        raise TrainingError(f"nothing can be recalibrated: {'; '.join(problems)}")
    return groups, [*(f"left out: {problem}" for problem in problems), *notes]


def _error(model: StoredModel) -> float:
    error = hardest_error(model.scores)
    return np.inf if error is None else error


def _old_rows(snapshot: Snapshot, node_type: int) -> NodeRows | None:
    name = kept_rows_file(node_type)
    if name not in snapshot.names:
        return None
    return read_kept_rows(snapshot.read(name), f"{snapshot.where}/{name}")


def _trainers(snapshot: Snapshot) -> dict[str, Mapping[str, Any]]:
    """Return the arguments of each trainer of AbsPower models in the pipeline, by the trainer's name.

    The names do not contain the distribution.
    """
    pipeline = snapshot.read_json(METADATA_FILE).get("pipeline")
    entries = pipeline.get("abs_trainers", []) if isinstance(pipeline, dict) else []
    named = [entry if isinstance(entry, dict) else {"name": entry} for entry in entries]
    return {str(entry.get("name")).rpartition(":")[2]: entry.get("args") or {} for entry in named}


def _best(candidates: Sequence[Candidate]) -> dict[str, Candidate]:
    """Return the candidate with the lowest error for each path of a model. Of equal errors, the first one counts."""
    best: dict[str, Candidate] = {}
    for candidate in candidates:
        if candidate.path not in best or candidate.errors.mae < best[candidate.path].errors.mae:
            best[candidate.path] = candidate
    return best


def _models(snapshot: Snapshot, best: Mapping[str, Candidate]) -> dict[str, Model]:
    """Return the models to publish by path.

    Fitted models get a twin among the fitted models. All other models lose their twin if the twin was fitted anew,
    because the limits in their metadata were measured with the previous twin.
    """
    models = {path: candidate.model for path, candidate in best.items()}
    fitted = {path: candidate.result for path, candidate in best.items() if candidate.result is not None}
    for entry in _own_models(snapshot):
        twin = twin_of(entry.table_row)
        if entry.path not in fitted and twin is not None and twin[0] in fitted:
            files = models[entry.path][1] if entry.path in models else read_files(entry)
            models[entry.path] = with_description(files, None)
    jobs, results = [job for job, _ in fitted.values()], [result for _, result in fitted.values()]
    for path, result in zip(fitted, with_twins(jobs, results), strict=True):
        assert result.files is not None  # `from_result` leaves out failed fits
        models[path] = _model(result.files)
    return models


def _model(files: Mapping[str, bytes]) -> Model:
    return msgspec.json.decode(files[METADATA_FILE]), files


def _publish(
    store: Store, snapshot: Snapshot, models: Mapping[str, Model], recalibration: Recalibration
) -> Recalibration:
    """Publish the models with all other models of the version, and record the recalibration in the store."""
    additions = {"recalibration": recalibration.as_dict()}
    files = next_version_files(snapshot, models, additions, read_models(snapshot))
    version = store.publish(recalibration.pipeline, files, version=recalibration.version)
    store.record_decision(recalibration.pipeline, recalibration.as_dict())
    return attrs.evolve(recalibration, version=version)
