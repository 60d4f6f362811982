"""Fit one model: validate it on held-out data, fit it to all data, and export it.

Fits run in worker processes, so `FitJob` and `FitResult` contain plain data that can be pickled.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core import __version__
from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.contracts import FitTask, Regressor, Trainer
from kepler_core.errors import KeplerError, ModelError, TrainingError
from kepler_core.grouping import sum_by
from kepler_core.honesty.document import HONESTY_KEY, Honesty, Seen, SplitName
from kepler_core.json_files import indented_json
from kepler_core.messages import one_line
from kepler_core.models.export import FittedComponent, export
from kepler_core.models.power_model import METADATA_FILE, scaled
from kepler_core.pipeline.container_sums import (
    UNCORRECTED_CONTAINERS,
    ContainerCorrection,
    corrected,
    correction,
    small_half_bias,
    sum_errors,
)
from kepler_core.pipeline.honesty import HeldOut, honesty
from kepler_core.pipeline.model_limits import ModelLimits, model_limits
from kepler_core.pipeline.node_gains import node_gains
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.pipeline.validation import Fold, Score, baselines, score
from kepler_core.plugins import registry
from kepler_core.plugins.problems import import_problem, required_versions
from kepler_core.plugins.settings import OWN
from kepler_core.vocabulary import Target, is_constant, main_feature


@attrs.frozen(eq=False)
class FitJob:
    """The data, trainer and settings for the fit of one model."""

    rows: TrainingRows
    folds: Sequence[Fold]
    """Folds of the pipeline's validation scheme."""
    splits: Mapping[SplitName, Sequence[Fold]]
    """Folds of each split (kind of held-out data) for which there are enough data.

    For the split that is the pipeline's validation scheme, these are the folds in the attribute `folds`.
    """
    seen: Seen
    baselines: Mapping[str, Mapping[str, float]]
    trainer: str
    args: Mapping[str, Any]
    seed: int
    node_type: int
    machine_spec: Mapping[str, Any]
    validation: Mapping[str, Any]
    lineage: Mapping[str, Any]
    target: Target = "machine"

    @property
    def key(self) -> dict[str, str]:
        """Source, output type, feature group and trainer. They identify this fit among all fits of a training."""
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
    held_out: HeldOut = attrs.field(factory=dict)
    """The predictions for held-out samples."""

    def with_honesty(self, block: Honesty) -> FitResult:
        """Return the result of a successful fit, with another block `honesty` (errors) in metadata and files."""
        assert self.files is not None  # a failed fit has no metadata
        changed = {HONESTY_KEY: msgspec.to_builtins(block)}
        stored = msgspec.json.decode(self.files[METADATA_FILE]) | changed
        files = {**self.files, METADATA_FILE: indented_json(stored)}
        return attrs.evolve(self, metadata={**self.metadata, **changed}, files=files)


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
        with threadpool_limits(1), np.errstate(all="ignore"), _without_repeated_checks(job):
            files, metadata, held_out = _fit(job)
        return FitResult(job.key, files, metadata, None, held_out)
    except KeplerError as error:
        return FitResult(job.key, None, {}, str(error))
    except ModuleNotFoundError as error:
        distribution = registry.trainers.entry(job.trainer).distribution
        return FitResult(job.key, None, {}, import_problem(error, job.key["trainer"], distribution))
    except (Exception, SystemExit) as error:  # an exception in one trainer must not end the other fits
        return FitResult(job.key, None, {}, one_line(error))


@contextlib.contextmanager
def _without_repeated_checks(job: FitJob) -> Iterator[None]:
    """Keep scikit-learn from checking parameters, rows and weights again for each tree of an ensemble.

    These checks take a fifth of the time of gradient boosting. They are only left out for Kepler Core's own trainers,
    which check their arguments themselves, and only if all rows are finite.
    """
    from sklearn import config_context

    rows = job.rows
    own = registry.trainers.entry(job.trainer).distribution == OWN
    finite = all(np.isfinite(values).all() for values in (rows.fit_X, rows.test_X, *rows.fit_watts.values()))
    checked = not (own and finite)
    with config_context(skip_parameter_validation=not checked, assume_finite=not checked):
        yield


def _fit(job: FitJob) -> tuple[dict[str, bytes], dict[str, Any], HeldOut]:
    rows = job.rows
    trainer = registry.trainers.create(job.trainer, job.args)
    X = _single(rows.fit_X, rows.scale)
    X.setflags(write=False)  # NumPy raises if a regressor writes into X in `predict`
    test_X = _single(rows.test_X, rows.scale)
    fitted: dict[str, FittedComponent] = {}
    scores: dict[str, dict[str, float | int | None]] = {}
    held_out: dict[SplitName, dict[str, FloatArray]] = {name: {} for name in job.splits}
    for component in rows.components:
        watts = rows.fit_watts[component]
        constant, regressor, of_model, stored = None, None, UNCORRECTED_CONTAINERS, None
        if is_constant(float(watts.min()), float(watts.max())):
            # a container that does nothing has no dynamic power, so a constant power of containers can only be 0
            constant = 0.0 if rows.output_type == "DynPower" else max(float(np.median(watts)), 0.0)
            predicted = _constant_predictions(job, constant)
        else:
            main, scale = main_feature(rows.features, component), tuple(map(float, rows.scale))
            task = FitTask(component, rows.features, main, rows.output_type, job.seed, scale)
            predicted = _cross_validate(job, trainer, task, X, test_X)
            every_row = np.ones(len(X), dtype=bool)
            regressor = _fitted(trainer, task, X, _of_mean_node(rows, component, every_row))
            _predicted(regressor, X, component)  # called only to raise an error if a prediction is not finite
            limits = model_limits(regressor, component, rows.features, trainer.model_format, X, watts)
            of_model = _correction(rows, regressor, limits, test_X, component, rows.tested)
            stored = _as_stored(regressor, limits, component, of_model)
        fitted[component] = FittedComponent(
            regressor, constant, watts, of_model.model.gain, of_model.weights_gain, rows.output_type == "DynPower"
        )
        scores[component] = attrs.asdict(_score(rows, component, predicted.own))
        if rows.output_type == "DynPower":
            scores[component] |= _sum_scores(rows, component, predicted.own, stored, test_X)
        for name, by_sample in predicted.by_split.items():
            held_out[name][component] = by_sample
    metadata = _metadata(job, scores, trainer)
    metadata[HONESTY_KEY] = msgspec.to_builtins(honesty(rows, held_out, job.splits, job.seen))
    files = export(rows.features, rows.scale, rows.fit_X, fitted, metadata, model_format=trainer.model_format)
    return files, metadata, held_out


def _of_mean_node(rows: TrainingRows, component: str, chosen: BoolArray) -> FloatArray:
    """Return the watts to which a regressor is fitted, shape (chosen rows,). `chosen` is a mask of training rows.

    For AbsPower, each node's watts are divided by the gain of the node, so that they fit the mean node (`node_gains`).
    """
    watts = rows.fit_watts[component][chosen]
    if rows.output_type == "DynPower":
        return watts
    return watts / node_gains(rows.fit_X[chosen], watts, rows.node[rows.fit_sample[chosen]])


def _single(X: FloatArray, scale: FloatArray) -> FloatArray:
    """Return scaled features, rounded to single precision, because the stored model gets them in this precision."""
    return scaled(X, scale).astype(np.float64)


def _fitted(trainer: Trainer, task: FitTask, X: FloatArray, y: FloatArray) -> Regressor:
    """Return a fitted regressor. Other fits use X and y, too, so `fit` gets copies of both.

    Raises `ModelError` if `fit` changes them.
    """
    regressor = trainer.regressor(task)
    if regressor is None or not (hasattr(regressor, "fit") and hasattr(regressor, "predict")):
        raise ModelError(f"regressor() returned {regressor!r}, which has no fit and predict")
    own_X, own_y = X.copy(order="K"), y.copy()
    fitted = regressor.fit(own_X, own_y)
    if not (np.array_equal(own_X, X, equal_nan=True) and np.array_equal(own_y, y, equal_nan=True)):
        raise ModelError("fit writes into X or y, and a trainer must not change its data; let it work on a copy")
    return regressor if fitted is None else fitted


def _predicted(regressor: Regressor, X: FloatArray, component: str) -> FloatArray:
    """Return the predicted watts ≥ 0, shape (rows,); raise `ModelError` if a prediction is missing, NaN or infinite."""
    if len(X) == 0:
        return np.empty(0)
    predicted = np.asarray(regressor.predict(X), dtype=np.float64)
    if predicted.size != len(X):
        raise ModelError(f"{component}: {predicted.size} predictions for {len(X)} rows")
    predicted = predicted.reshape(len(X))
    if not np.isfinite(predicted).all():
        raise ModelError(f"{component}: predicts NaN or infinity")
    return np.maximum(predicted, 0.0)


def _correction(
    rows: TrainingRows,
    regressor: Regressor,
    limits: ModelLimits,
    test_X: FloatArray,
    component: str,
    samples: BoolArray,
) -> ContainerCorrection:
    """Compute the correction of a DynPower model from the samples that it was fitted on.

    `samples` is true for these samples. An AbsPower model is not corrected.
    """
    if rows.output_type == "AbsPower":
        return UNCORRECTED_CONTAINERS
    idle = float(_predicted(regressor, np.zeros((1, test_X.shape[1])), component)[0])
    samples = samples & rows.tested
    predicted = _predicted(regressor, limits.cut(test_X[samples[rows.test_sample]]), component)
    return correction(rows, component, samples, predicted, idle, limits.ceiling)


def _as_stored(
    regressor: Regressor, limits: ModelLimits, component: str, correction: ContainerCorrection
) -> Callable[[FloatArray], FloatArray]:
    """Return a function from scaled features to the watts that the stored model predicts for them, shape (rows,)."""
    return lambda X: corrected(_predicted(regressor, limits.cut(X), component), correction.model, limits.ceiling)


def _sum_scores(
    rows: TrainingRows,
    component: str,
    held_out: FloatArray,
    stored: Callable[[FloatArray], FloatArray] | None,
    test_X: FloatArray,
) -> dict[str, float | None]:
    """Return the errors that only DynPower models have.

    `held_out` are predicted node watts, shape (samples,). `stored` is the result of `_as_stored`. If the power of the
    component is constant, `stored` is None, and the model predicts 0 W.
    """
    watts, idle = np.zeros(len(test_X)), 0.0
    if stored is not None:
        watts, idle = stored(test_X), float(stored(np.zeros((1, test_X.shape[1])))[0])
    return {
        **sum_errors(rows, component, held_out),
        "zero_watts": idle,
        "small_half_bias_percent": small_half_bias(rows, component, watts),
    }


@attrs.frozen(eq=False)
class _Predictions:
    """Predicted node watts of one component, each of shape (samples,); NaN for samples that are not tested."""

    own: FloatArray
    """Predictions of models that were fitted and tested on the folds of the pipeline's validation scheme."""
    by_split: Mapping[SplitName, FloatArray]


def _cross_validate(job: FitJob, trainer: Trainer, task: FitTask, X: FloatArray, test_X: FloatArray) -> _Predictions:
    """Return the predictions for the test samples of all folds and splits."""
    return _of_all_splits(job, lambda folds: _out_of_fold(job.rows, folds, trainer, task, X, test_X))


def _of_all_splits(job: FitJob, predict: Callable[[Sequence[Fold]], FloatArray]) -> _Predictions:
    """Return the predictions for the validation scheme and for each split. A list of folds is used only once."""
    predicted: dict[int, FloatArray] = {}
    for folds in (job.folds, *job.splits.values()):
        if id(folds) not in predicted:
            predicted[id(folds)] = predict(folds)
    own = predicted[id(job.folds)]
    if not np.isfinite(own).any():
        raise TrainingError("no timestamp is held out, because max_test_rows is too low; increase max_test_rows")
    return _Predictions(own, {name: predicted[id(folds)] for name, folds in job.splits.items()})


def _out_of_fold(
    rows: TrainingRows, folds: Sequence[Fold], trainer: Trainer, task: FitTask, X: FloatArray, test_X: FloatArray
) -> FloatArray:
    """Fit a new regressor to each fold's training samples, and return its predictions for the test samples.

    The predictions are the watts of nodes, shape (samples,): the sums over the test rows of each sample. They are NaN
    for samples that are not tested.
    """
    watts = np.full(len(rows.tested), np.nan)
    for fold in folds:
        train = fold.train[rows.fit_sample]
        tested = fold.test & rows.tested
        if not tested.any():
            continue
        measured = rows.fit_watts[task.component][train]
        regressor = _fitted(trainer, task, X[train], _of_mean_node(rows, task.component, train))
        test_rows = tested[rows.test_sample]
        limits = model_limits(regressor, task.component, rows.features, trainer.model_format, X[train], measured)
        of_fold = _correction(rows, regressor, limits, test_X, task.component, fold.train)
        predicted = _as_stored(regressor, limits, task.component, of_fold)(test_X[test_rows])
        watts[tested] = sum_by(predicted, rows.test_sample[test_rows], len(tested))[tested]
    return watts


def _constant_predictions(job: FitJob, constant: float) -> _Predictions:
    """Return the predictions of a model that always predicts the watts `constant` (0 W for DynPower) for each node."""
    rows = job.rows

    def predict(folds: Sequence[Fold]) -> FloatArray:
        tested = np.logical_or.reduce([fold.test for fold in folds]) & rows.tested
        return np.where(tested, constant, np.nan)

    return _of_all_splits(job, predict)


def _score(rows: TrainingRows, component: str, predicted: FloatArray) -> Score:
    """Return the errors of predicted node watts, shape (samples,). Samples with NaN are not tested."""
    tested = np.isfinite(predicted)
    return score(predicted[tested], rows.node_watts[component][tested], rows.load[tested])


def _metadata(job: FitJob, scores: Mapping[str, Mapping[str, float | int | None]], trainer: Trainer) -> dict[str, Any]:
    """Return the content of the model's `metadata.json`, without the keys that `export` adds."""
    key = job.key
    components = {
        component: {
            **{name: _rounded(value) for name, value in errors.items()},
            **{name: _rounded(value) for name, value in job.baselines[component].items()},
        }
        for component, errors in scores.items()
    }
    worst_mae = max(errors["mae"] or 0.0 for errors in scores.values())
    mapes = [mape for errors in scores.values() if (mape := errors["mape"]) is not None]
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
    if job.target != "machine":
        metadata["target"] = job.target
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
