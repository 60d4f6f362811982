"""Fit one model: validate it on held-out data, fit it to all data, and export it.

Fits run in worker processes, so `FitJob` and `FitResult` contain plain data that can be pickled.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core import __version__
from kepler_core.arrays import FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_core.errors import KeplerError, ModelError, TrainingError
from kepler_core.grouping import sum_by
from kepler_core.messages import one_line
from kepler_core.models.export import FittedComponent, export
from kepler_core.models.power_model import scaled
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.pipeline.validation import Fold, Score, baselines, score
from kepler_core.plugins import registry
from kepler_core.plugins.problems import import_problem, required_versions
from kepler_core.vocabulary import is_constant, main_feature


@attrs.frozen(eq=False)
class FitJob:
    """The data, trainer and settings for the fit of one model."""

    rows: TrainingRows
    folds: Sequence[Fold]
    baselines: Mapping[str, Mapping[str, float]]
    trainer: str
    args: Mapping[str, Any]
    seed: int
    node_type: int
    machine_spec: Mapping[str, Any]
    validation: Mapping[str, Any]
    lineage: Mapping[str, Any]

    @property
    def key(self) -> dict[str, str]:
        """Source, output type, feature group and trainer, which identify this fit among all fits of a training."""
        return {
            "source": self.rows.source,
            "output_type": self.rows.output_type,
            "feature_group": self.rows.feature_group,
            "trainer": self.trainer.rpartition(":")[2],
        }


@attrs.frozen(eq=False)
class FitResult:
    """The files of a trained model, or the reason why the fit failed."""

    key: Mapping[str, str]
    files: Mapping[str, bytes] | None
    metadata: Mapping[str, Any]
    reason: str | None


def all_baselines(rows: TrainingRows, held_out: Sequence[Fold]) -> dict[str, dict[str, float]]:
    """Return, by component, the errors of the trivial models that `baselines` evaluates."""
    return {
        component: baselines(held_out, rows.tested, rows.node_load[component], rows.node_watts[component])
        for component in rows.components
    }


def fit(job: FitJob) -> FitResult:
    """Fit, validate and export one model. If the trainer raises an exception, return it as `FitResult.reason`."""
    from threadpoolctl import threadpool_limits

    try:
        # The import of a trainer loads its libraries. `threadpool_limits` limits only libraries that are loaded.
        registry.trainers.get(job.trainer)
        # With one thread, NumPy adds sums in the same order on every machine, and workers do not compete for cores.
        with threadpool_limits(1), np.errstate(all="ignore"):
            files, metadata = _fit(job)
        return FitResult(job.key, files, metadata, None)
    except KeplerError as error:
        return FitResult(job.key, None, {}, str(error))
    except ModuleNotFoundError as error:
        distribution = registry.trainers.entry(job.trainer).distribution
        return FitResult(job.key, None, {}, import_problem(error, job.key["trainer"], distribution))
    except (Exception, SystemExit) as error:  # a trainer that raises must not end the other fits
        return FitResult(job.key, None, {}, one_line(error))


def _fit(job: FitJob) -> tuple[dict[str, bytes], dict[str, Any]]:
    rows = job.rows
    trainer = registry.trainers.create(job.trainer, job.args)
    X = _single(rows.fit_X, rows.scale)
    X.setflags(write=False)  # NumPy raises if a regressor writes into X in `predict`
    test_X = _single(rows.test_X, rows.scale)
    fitted: dict[str, FittedComponent] = {}
    scores: dict[str, Score] = {}
    for component in rows.components:
        watts = rows.fit_watts[component]
        if is_constant(float(watts.min()), float(watts.max())):
            constant = max(float(np.median(watts)), 0.0)
            fitted[component] = FittedComponent(None, constant, watts)
            scores[component] = _score_constant(rows, job.folds, component, constant)
            continue
        main, scale = main_feature(rows.features, component), tuple(map(float, rows.scale))
        task = FitTask(component, rows.features, main, rows.output_type, job.seed, scale)
        scores[component] = _cross_validate(job, trainer, task, X, test_X)
        regressor = _fitted(trainer, task, X, watts)
        _predicted(regressor, X, component)  # only to raise if a prediction is not finite
        fitted[component] = FittedComponent(regressor, None, watts)
    metadata = _metadata(job, scores, trainer)
    files = export(rows.features, rows.scale, rows.fit_X, fitted, metadata, model_format=trainer.model_format)
    return files, metadata


def _single(X: FloatArray, scale: FloatArray) -> FloatArray:
    """Return scaled features, rounded to single precision, because the stored model gets them in this precision."""
    return scaled(X, scale).astype(np.float64)


def _fitted(trainer: Trainer, task: FitTask, X: FloatArray, y: FloatArray) -> Regressor:
    """Return a fitted regressor; raise `ModelError` if its `fit` changes X or y, which other fits also use."""
    regressor = trainer.regressor(task)
    if regressor is None or not (hasattr(regressor, "fit") and hasattr(regressor, "predict")):
        raise ModelError(f"regressor() returned {regressor!r}, which has no fit and predict")
    own_X, own_y = X.copy(order="K"), y.copy()
    fitted = regressor.fit(own_X, own_y)
    if not (np.array_equal(own_X, X, equal_nan=True) and np.array_equal(own_y, y, equal_nan=True)):
        raise ModelError("fit writes into X or y, and a trainer must not change its data; let it work on a copy")
    return regressor if fitted is None else fitted


def _predicted(regressor: Regressor, X: FloatArray, component: str) -> FloatArray:
    """Return the predicted watts ≥ 0, shape (rows,); raise `ModelError` if one is NaN or infinite, or missing."""
    if len(X) == 0:
        return np.empty(0)
    predicted = np.asarray(regressor.predict(X), dtype=np.float64)
    if predicted.size != len(X):
        raise ModelError(f"{component}: {predicted.size} predictions for {len(X)} rows")
    predicted = predicted.reshape(len(X))
    if not np.isfinite(predicted).all():
        raise ModelError(f"{component}: predicts NaN or infinity")
    return np.maximum(predicted, 0.0)


def _cross_validate(job: FitJob, trainer: Trainer, task: FitTask, X: FloatArray, test_X: FloatArray) -> Score:
    """Return the errors on the test samples of all folds; fit a new regressor to each fold's training samples."""
    rows = job.rows
    predicted, measured, load = [], [], []
    for fold in job.folds:
        train = fold.train[rows.fit_sample]
        tested = fold.test & rows.tested
        if not tested.any():
            continue
        regressor = _fitted(trainer, task, X[train], rows.fit_watts[task.component][train])
        test_rows = tested[rows.test_sample]
        watts = _predicted(regressor, test_X[test_rows], task.component)
        sums = sum_by(watts, rows.test_sample[test_rows], len(tested))
        predicted.append(sums[tested])
        measured.append(rows.node_watts[task.component][tested])
        load.append(rows.load[tested])
    if not predicted:
        raise TrainingError("no timestamp is held out, because max_test_rows is too low; increase max_test_rows")
    return score(np.concatenate(predicted), np.concatenate(measured), np.concatenate(load))


def _score_constant(rows: TrainingRows, folds: Sequence[Fold], component: str, constant: float) -> Score:
    """Return the errors of predicting a constant power (watts): per node or, for DynPower, per container."""
    tested = np.logical_or.reduce([fold.test for fold in folds]) & rows.tested
    containers = 1
    if rows.output_type == "DynPower":
        containers = np.bincount(rows.test_sample, minlength=len(tested))[tested]
    return score(
        np.broadcast_to(constant * np.asarray(containers, dtype=np.float64), (int(tested.sum()),)),
        rows.node_watts[component][tested],
        rows.load[tested],
    )


def _metadata(job: FitJob, scores: Mapping[str, Score], trainer: Trainer) -> dict[str, Any]:
    """Return the content of the model's `metadata.json`, without the keys that `export` adds."""
    key = job.key
    components = {
        component: {
            **{name: _rounded(value) for name, value in attrs.asdict(error).items()},
            **{name: _rounded(value) for name, value in job.baselines[component].items()},
        }
        for component, error in scores.items()
    }
    worst_mae = max(error.mae for error in scores.values())
    mapes = [error.mape for error in scores.values() if error.mape is not None]
    worst_mape = max(mapes) if mapes else None
    metadata: dict[str, Any] = {
        "model_name": f"{key['trainer']}_{job.node_type}",
        **key,
        "features": list(job.rows.features),
        "components": list(job.rows.components),
        "node_type": job.node_type,
        "machine_spec": dict(job.machine_spec),
        "mae": _rounded(worst_mae),
        "mape": _rounded(worst_mape),
    }
    for component, errors in components.items():
        metadata[f"{component}_mae"] = errors["mae"]
        metadata[f"{component}_mape"] = errors["mape"]
    metadata["validation"] = {**job.validation, "components": components}
    metadata["arguments"] = dict(job.args)
    metadata["lineage"] = {**job.lineage, "versions": _versions(type(trainer))}
    return metadata


def _rounded(value: float | int | None) -> float | int | None:
    return round(value, 6) if isinstance(value, float) else value


def _versions(trainer: type[Trainer]) -> dict[str, str]:
    """Return versions by distribution: Kepler Core, libraries, the trainer's distribution and its requirements."""
    versions = {"kepler-core": __version__}
    for name in ("numpy", "scikit-learn", "scipy", "skl2onnx", "xgboost", "xgboost-cpu"):
        if name.startswith("xgboost") and trainer.extra != "xgboost":
            continue
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    for entry in registry.trainers.entries:
        if entry.target == f"{trainer.__module__}:{trainer.__qualname__}":
            versions[entry.distribution] = entry.version
            versions.update(required_versions(entry.distribution))
    return versions
