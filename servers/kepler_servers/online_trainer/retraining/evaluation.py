"""Evaluate models on the samples that were held out from training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, cast

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import ModelError, PluginError
from kepler_core.grouping import sum_by
from kepler_core.honesty.document import read_honesty
from kepler_core.honesty.interval import SAME_MACHINE, half_widths
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.plan import Plan, Wanted, datasets
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.pipeline.validation import score
from kepler_core.plugins import registry
from kepler_core.vocabulary import OutputType, load_feature
from kepler_servers.online_trainer.retraining.holdout import MIN_SAMPLES, HeldOut

EXTRAPOLATION_FACTOR = 1.05
"""A model extrapolates if a feature is higher than this factor times the feature's highest value in training."""
MAX_SAMPLES_ON_ALL = 2000
"""An evaluation on all samples uses at most this number of samples, evenly spaced in time."""


class LoadableModel(Protocol):
    """The attributes of a model that the evaluator uses. `StoredModel` and `Candidate` have them."""

    @property
    def source(self) -> str: ...
    @property
    def output_type(self) -> str: ...
    @property
    def feature_group(self) -> str: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...
    def load(self) -> PowerModel:
        """Load the model."""


@attrs.frozen(eq=False)
class Evaluation:
    """Predictions of a model and the measured power; all arrays have shape (samples,), in order of time."""

    samples: tuple[tuple[str, float], ...]
    """The pair (node, Unix seconds) of each sample."""
    predicted: Mapping[str, FloatArray]
    """Predicted watts of the node for each component; for DynPower, the sum over the node's containers."""
    measured: Mapping[str, FloatArray]
    load: FloatArray
    """Values of the feature that represents the load (`vocabulary.load_feature`), summed over the rows of a node."""
    is_extrapolated: BoolArray
    """For each sample: whether a feature is so high that the model extrapolates (see `EXTRAPOLATION_FACTOR`)."""
    half_widths: Mapping[str, FloatArray] = attrs.field(factory=dict)
    """Half-widths of the model's intervals in watts, for each component that has intervals."""

    def errors(self) -> dict[str, dict[str, float]]:
        """Return for each component the errors "mae" (mean absolute error) and "idle_error" (at idle), in watts."""
        errors = {}
        for component, predicted in self.predicted.items():
            scores = score(predicted, self.measured[component], self.load)
            errors[component] = {"mae": round(scores.mae, 3), "idle_error": round(scores.idle_error, 3)}
        return errors

    def total_error(self) -> FloatArray:
        """Return the absolute error of each sample in watts, summed over all components."""
        errors = [np.abs(p - self.measured[component]) for component, p in self.predicted.items()]
        return np.asarray(np.sum(errors, axis=0), dtype=np.float64)

    def subset(self, chosen: set[tuple[str, float]]) -> Evaluation:
        """Return the evaluation of the chosen samples only.

        `chosen` has the (node, Unix seconds) of each chosen sample.
        """
        mask = np.array([sample in chosen for sample in self.samples], dtype=bool)

        def cut(columns: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
            return {component: values[mask] for component, values in columns.items()}

        samples = tuple(sample for sample in self.samples if sample in chosen)
        columns = cut(self.predicted), cut(self.measured), self.load[mask], self.is_extrapolated[mask]
        return Evaluation(samples, *columns, cut(self.half_widths))

    def coverage(self) -> dict[str, dict[str, float]]:
        """Return for each component "coverage" (fraction of samples in the intervals) and the mean "half_width"."""
        coverage = {}
        for component, half in self.half_widths.items():
            inside = np.abs(self.predicted[component] - self.measured[component]) <= half
            coverage[component] = {
                "coverage": round(float(inside.mean()), 3),
                "half_width": round(float(half.mean()), 3),
            }
        return coverage

    def as_dict(self) -> dict[str, Any]:
        """Return this evaluation as a JSON object, which becomes a part of the recorded decision."""
        coverage = self.coverage()
        components = {name: {**errors, **coverage.get(name, {})} for name, errors in self.errors().items()}
        return {"instants": len(self.samples), "components": components}


class Evaluator:
    """Compares the predictions of models with the measured power of the held-out samples."""

    def __init__(self, context: IsolationContext, spec: PipelineSpec, held_out: HeldOut) -> None:
        """Create an evaluator.

        The observations in `context` contain all samples, not only the held-out samples, because an isolator finds the
        idle power in samples of low load.
        """
        self._context = context
        self._observations = context.observations
        self._spec = spec
        self._held_out = held_out
        self._datasets: dict[Wanted, Dataset | None] = {}

    def evaluate(self, entry: LoadableModel, *, on_all: bool = False) -> Evaluation | None:
        """Evaluate a model on the held-out samples; if `on_all` is true, on all samples.

        If `on_all` is true, the model may have been trained on some of the samples. Then its errors are lower than on
        new samples. Returns None if there are too few samples, or if they lack data that the model needs.
        """
        model = entry.load()
        measured = self._observations.sources.get(entry.source, ())
        components = [component for component in model.components if component in measured]
        output_type = cast("OutputType", entry.output_type)
        dataset = self._dataset((entry.source, output_type, entry.feature_group, model.features))
        if dataset is None or not components:
            return None
        time = dataset.timestamps[dataset.first_rows]
        chosen = _evenly_spaced(len(time)) if on_all else np.flatnonzero(self._held_out.covers(time))
        if len(chosen) < MIN_SAMPLES:
            return None
        chosen = chosen[np.argsort(time[chosen], kind="stable")]
        with np.errstate(all="ignore"):
            return _with_intervals(_evaluate(model, dataset, chosen, components), entry.metadata)

    def _dataset(self, wanted: Wanted) -> Dataset | None:
        """Return the data set for an energy source, output type and features.

        Returns None if there is no such data set, e.g. because the observations lack the energy source, a feature
        or (for DynPower) values per container.
        """
        if wanted not in self._datasets:
            source, output_type, _, features = wanted
            observations = self._observations
            per_container = any(feature in observations.container_features for feature in features)
            available = source in observations.sources and set(observations.features).issuperset(features)
            self._datasets[wanted] = None
            if available and (output_type == "AbsPower" or per_container):
                # The pipeline's extractor may smooth values. Requests to a served model are not smoothed, so the
                # evaluation uses the default extractor.
                extractor = registry.extractors.create("DefaultExtractor")
                isolator = registry.isolators.create(self._spec.isolator.name, self._spec.isolator.args)
                dataset = next(iter(datasets(extractor, isolator, Plan((wanted,), ()), self._context)))[1]
                self._datasets[wanted] = None if isinstance(dataset, PluginError) or dataset.frame.empty else dataset
        return self._datasets[wanted]


def _evenly_spaced(n: int) -> IntArray:
    return np.unique(np.linspace(0, n - 1, min(n, MAX_SAMPLES_ON_ALL)).astype(np.int64))


def _with_intervals(evaluation: Evaluation, metadata: Mapping[str, Any]) -> Evaluation:
    """Add the half-widths of the intervals to an evaluation, if the model's metadata state intervals."""
    try:
        honesty = read_honesty(metadata)
    except ModelError:  # the block `honesty`, which has the intervals, is malformed: the model has none
        return evaluation
    if honesty is None:
        return evaluation
    widths = half_widths(honesty, evaluation.predicted, evaluation.is_extrapolated, SAME_MACHINE)
    return attrs.evolve(evaluation, half_widths=widths)


def _evaluate(model: PowerModel, dataset: Dataset, chosen: IntArray, components: list[str]) -> Evaluation:
    """Evaluate a model on some samples of a data set. `chosen` has the numbers of these samples, sorted by time."""
    is_chosen = np.isin(dataset.sample, chosen)
    sample = dataset.sample[is_chosen]
    X = dataset.X[is_chosen]

    def sum_by_sample(values: FloatArray) -> FloatArray:
        return sum_by(values, sample, len(dataset.first_rows))[chosen]

    predicted = model.predict(X)
    nodes = dataset.index[dataset.first_rows[chosen]].get_level_values("node")
    time = dataset.timestamps[dataset.first_rows[chosen]]
    is_higher = np.logical_or.reduce(EXTRAPOLATION_FACTOR * model.scale < X, axis=1)
    return Evaluation(
        tuple(zip(map(str, nodes), map(float, time), strict=True)),
        {c: sum_by_sample(predicted[c]) for c in components},
        {c: sum_by_sample(dataset.y(c)[is_chosen]) for c in components},
        sum_by_sample(X[:, dataset.features.index(load_feature(dataset.features))]),
        sum_by_sample(is_higher.astype(np.float64)) > 0,
    )
