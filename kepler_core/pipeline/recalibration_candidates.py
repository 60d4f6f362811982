"""The candidates of a recalibration: AbsPower models fitted to a short metered recording of another machine or day.

Each model has up to three candidates:

- the model as it is
- a model that is fitted to rows of the earlier training and to the new rows. The total weight of the new rows is a
  quarter of the total weight of the earlier rows.
- a model that is fitted to the new rows alone

Each feature group also has candidates of the trainer `LINEAR`, because non-negative linear models need few rows.

The errors are measured on blocks of the new rows. Each block is predicted by a model that was not fitted to this block.
For each model, the candidate with the lowest error is published. Two more numbers are published with the errors: the
standard error, and the error of the trainer before the recalibration. The selection needs them to compare models whose
errors are uncertain (`kepler_core.selection.ranking`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import TrainingError
from kepler_core.honesty.document import HONESTY_KEY, Honesty, Seen, SplitErrors, SplitName
from kepler_core.honesty.ratios import ratios
from kepler_core.json_files import indented_json
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.fit import FitJob, FitResult, all_baselines
from kepler_core.pipeline.honesty import SECONDS_PER_DAY, errors_of
from kepler_core.pipeline.kept_rows import NodeRows
from kepler_core.pipeline.next_version import Model, read_files
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.pipeline.validation import Fold
from kepler_core.store.models import StoredModel
from kepler_core.store.scores import Scores, hardest_error
from kepler_core.vocabulary import load_feature, main_feature

Kind = Literal["as is", "mixed", "new"]
"""Kind of a candidate: the served model, a fit to earlier and new rows, or a fit to the new rows alone."""

NEW_WEIGHT = 0.25
"""Total weight of all new rows, as a fraction of the total weight of all earlier rows."""
BLOCKS = 5
"""Number of blocks into which the new rows (those of the new recording) are divided. Each block is held out once."""
MIN_ROWS = 20
"""Minimum number of rows of the new recording. With fewer rows, a block would have fewer than 4 rows."""
_NEW_STREAM = 1_000_000
"""Number that is added to the stream numbers of new rows. So no new row has the stream number of an earlier row."""
LINEAR = "SGDRegressorTrainer"
"""Trainer of non-negative linear models. Each feature group has candidates of this trainer."""


@attrs.frozen(eq=False)
class Candidate:
    """A model that may replace a served model, and its errors on the held-out new rows."""

    kind: Kind
    path: str
    """Path of the model, relative to the pipeline's folder."""
    errors: SplitErrors
    model: Model
    result: tuple[FitJob, FitResult] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the description of the candidate that the store records."""
        maes = {component: errors.mae for component, errors in self.errors.components.items()}
        return {"model": self.path, "candidate": self.kind, "mae": self.errors.mae, "components": maes}


@attrs.frozen(eq=False)
class Group:
    """The AbsPower models of one energy source and one feature group, and the rows to recalibrate them with."""

    models: Sequence[StoredModel]
    """All models of the source and the feature group, those with the lowest errors first."""
    new: NodeRows
    old: NodeRows | None
    """Rows of the earlier training; None if the pipeline has no rows with these features and this power."""

    @property
    def first(self) -> StoredModel:
        return self.models[0]


def fit_jobs(
    group: Group, trainers: Mapping[str, Mapping[str, Any]], digest: str, seed: int
) -> dict[tuple[str, Kind], FitJob]:
    """Return a fit job for each candidate. Keys are the candidate's trainer and kind.

    `trainers` maps the name of each trainer to its arguments. `digest` identifies the new recording.
    """
    components = tuple(group.first.load().components)
    jobs: dict[tuple[str, Kind], FitJob] = {}
    for kind, old in (("mixed", group.old), ("new", None)):
        if kind == "mixed" and old is None:
            continue
        rows, folds = training_rows_of(group, old, components)
        seen = _seen(group, rows)
        baselines = all_baselines(rows, folds)
        for trainer, args in trainers.items():
            jobs[trainer, kind] = FitJob(  # type: ignore[index]
                rows=rows,
                folds=folds,
                splits={"blocks": folds},
                seen=seen,
                baselines=baselines,
                trainer=trainer,
                args=args,
                seed=seed,
                node_type=group.first.node_type,
                machine_spec=group.first.machine_spec,
                validation={
                    "scheme": "blocks",
                    "folds": BLOCKS,
                    "measured_on": "nodes",
                    "timestamps": len(group.new.time),
                    "fit_rows": len(rows.fit_X),
                },
                lineage={**_lineage(group.first), "recalibrated_with": digest, "data": digest},
            )
    return jobs


def training_rows_of(group: Group, old: NodeRows | None, components: Sequence[str]) -> tuple[TrainingRows, list[Fold]]:
    """Return the training rows, the earlier rows first, and a fold for each block of the new rows.

    Each new row is repeated, so that all new rows together have about the weight `NEW_WEIGHT`.
    """
    features, source = group.first.features, group.first.source
    parts = [group.new] if old is None else [old, group.new]
    X = np.concatenate([np.column_stack([part.features[name] for name in features]) for part in parts])
    watts = {c: np.concatenate([part.power[f"{source}/{c}"] for part in parts]) for c in components}
    n_old, n_new = (0 if old is None else len(old.time)), len(group.new.time)
    n = n_old + n_new
    repeats = max(1, round(NEW_WEIGHT * n_old / n_new))
    fit_sample = np.concatenate([np.arange(n_old), np.repeat(np.arange(n_old, n), repeats)])
    scale = np.abs(X).max(axis=0)
    mains = {c: features.index(main_feature(features, c)) for c in components}
    streams = [part.stream + (_NEW_STREAM if part is group.new else 0) for part in parts]
    rows = TrainingRows(
        source=source,
        output_type="AbsPower",
        feature_group=group.first.feature_group,
        features=features,
        components=tuple(components),
        scale=np.where(scale > 0, scale, 1.0),
        fit_X=X[fit_sample],
        fit_watts={c: values[fit_sample] for c, values in watts.items()},
        fit_sample=fit_sample,
        test_X=X,
        test_sample=np.arange(n),
        tested=np.arange(n) >= n_old,
        node_watts=watts,
        node_load={c: X[:, column] for c, column in mains.items()},
        load=X[:, features.index(load_feature(features))],
        node_X=X,
        stream=np.concatenate(streams),
        recording=(np.arange(n) >= n_old).astype(np.int64),
        node=np.zeros(n, dtype=np.int64),
        time=np.concatenate([part.time for part in parts]),
    )
    return rows, [
        Fold(~np.isin(np.arange(n), block), np.isin(np.arange(n), block))
        for block in np.array_split(np.arange(n_old, n), BLOCKS)
    ]


def _seen(group: Group, rows: TrainingRows) -> Seen:
    columns = dict(zip(rows.features, rows.node_X.T, strict=True))
    return Seen(
        recordings=len(np.unique(rows.stream)),
        days=len(np.unique(rows.time // SECONDS_PER_DAY)),
        nodes=len(np.unique(rows.node)),
        samples=len(rows.time),
        features={name: (float(values.min()), float(values.max())) for name, values in columns.items()},
        ratios={name: (float(values.min()), float(values.max())) for name, values in ratios(columns).items()},
        node_names=[],
    )


def _lineage(model: StoredModel) -> dict[str, Any]:
    lineage = model.metadata.get("lineage")
    return {key: value for key, value in lineage.items() if key != "versions"} if isinstance(lineage, dict) else {}


def check_rows(rows: NodeRows) -> None:
    """Raise `TrainingError` if the new recording has too few rows to divide them into blocks."""
    if len(rows.time) < MIN_ROWS:
        raise TrainingError(f"only {len(rows.time)} usable timestamps in the metered recording; {MIN_ROWS} are needed")


def as_is(model: StoredModel, group: Group, digest: str) -> Candidate:
    """Return the served model as a candidate, with its errors on the new rows in its metadata."""
    loaded = model.load()
    rows, folds = training_rows_of(group, None, loaded.components)
    predicted = loaded.predict(rows.node_X, rows.features)
    errors = _over_all_blocks(errors_of(rows, predicted, folds), rows, predicted, folds, earlier_error([model]))
    files = read_files(model)
    metadata = restated(model.metadata, errors, digest, len(rows.time))
    return Candidate("as is", model.path, errors, (metadata, {**files, METADATA_FILE: indented_json(metadata)}))


def restated(metadata: Mapping[str, Any], errors: SplitErrors, digest: str, timestamps: int) -> dict[str, Any]:
    """Return a model's metadata with the errors that were measured on the new rows.

    The intervals and the twin of the model do not change.
    """
    changed = dict(metadata)
    changed["mae"] = errors.mae
    validation = dict(changed.get("validation", {}))
    components = {name: dict(scores) for name, scores in validation.get("components", {}).items()}
    for component, measured in errors.components.items():
        changed[f"{component}_mae"] = measured.mae
        changed[f"{component}_mape"] = measured.mape
        scores = {"mae": measured.mae, "mape": measured.mape, "idle_error": measured.idle_bias, "rows": measured.rows}
        components[component] = components.get(component, {}) | scores
    mapes = [measured.mape for measured in errors.components.values() if measured.mape is not None]
    changed["mape"] = max(mapes) if mapes else None
    changed["validation"] = validation | {"components": components, "timestamps": timestamps}
    changed["lineage"] = changed.get("lineage", {}) | {"data": digest, "recalibrated_with": digest}
    if HONESTY_KEY in changed:
        splits: dict[SplitName, Any] = dict.fromkeys(("blocks", "regimes", "recordings", "nodes"))
        splits["blocks"] = msgspec.to_builtins(errors)
        changed[HONESTY_KEY] = changed[HONESTY_KEY] | {"splits": splits, "hardest": "blocks"}
    return changed


def from_result(kind: Kind, path: str, job: FitJob, result: FitResult, earlier: float | None) -> Candidate | None:
    """Return a candidate from the result of a fit; None if the fit failed.

    `earlier` is the error before the recalibration (`SplitErrors.earlier`).
    """
    if result.files is None:
        return None
    honesty = msgspec.convert(result.metadata[HONESTY_KEY], Honesty)
    measured = honesty.splits["blocks"]
    assert measured is not None  # `fit_jobs` measures this split
    errors = _over_all_blocks(measured, job.rows, result.held_out["blocks"], job.folds, earlier)
    splits: dict[SplitName, SplitErrors | None] = {**honesty.splits, "blocks": errors}
    changed = result.with_honesty(msgspec.structs.replace(honesty, splits=splits))
    assert changed.files is not None  # the fit did not fail
    stored = msgspec.json.decode(changed.files[METADATA_FILE])
    return Candidate(kind, path, errors, (stored, changed.files), (job, changed))


def earlier_error(models: Sequence[StoredModel]) -> float | None:
    """Return the lowest error of models before their first recalibration, in watts; None if it is unknown."""
    known = [error for model in models if (error := _earlier(model.scores)) is not None]
    return min(known, default=None)


def _earlier(scores: Scores) -> float | None:
    if scores.get("blocks_standard_error") is not None:  # only a recalibration sets the standard error
        return scores.get("blocks_earlier")
    return hardest_error(scores)


def _over_all_blocks(
    errors: SplitErrors,
    rows: TrainingRows,
    predicted: Mapping[str, FloatArray],
    blocks: Sequence[Fold],
    earlier: float | None,
) -> SplitErrors:
    """Return the errors of a recalibrated model. They have a standard error, and `worst` is None.

    The blocks of a short recording have few rows, so the error on the hardest block (`worst`) says little. Therefore
    models are ranked by the error on all blocks. `predicted` maps components to held-out predictions of shape
    (samples,).
    """
    worst = max(errors.components, key=lambda component: errors.components[component].mae)
    error = np.abs(predicted[worst] - rows.node_watts[worst])
    of_blocks = [float(np.mean(error[block.test])) for block in blocks]
    standard_error = float(np.std(of_blocks, ddof=1)) / math.sqrt(len(of_blocks))
    return msgspec.structs.replace(errors, worst=None, standard_error=round(standard_error, 6), earlier=earlier)
