"""Choose the twin of each trained model. A twin is a model with fewer features that checks the model's predictions.

For work that is not in the training data, a model with many features can be very wrong. A model that uses only hardware
counters is then still nearly right. The validation measures a limit for the difference of the two predictions. If they
differ by more, the prediction of the model with fewer features is used (`kepler_core.models.twins`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.honesty.document import HONESTY_KEY, Honesty, SplitName, Twin, read_honesty
from kepler_core.honesty.least_error import least_error
from kepler_core.json_files import indented_json
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.fit import FitJob, FitResult
from kepler_core.pipeline.interval_terms import conformal_quantile
from kepler_core.pipeline.next_version import Model
from kepler_core.store.layout import model_path, twin_path

TWIN_GROUP = "CounterOnly"
"""The feature group of twins, if the pipeline trains it."""
LIMIT_LEVEL = 0.99
"""Two models disagree if they differ by more than this quantile of their differences in the validation."""


@attrs.frozen(eq=False)
class _Trained:
    job: FitJob
    result: FitResult
    honesty: Honesty


def with_twins(jobs: Sequence[FitJob], results: Sequence[FitResult]) -> list[FitResult]:
    """Choose a twin for each AbsPower model, and return the results with `honesty.twin` in the models' metadata.

    A twin has the same energy source, the same components and a proper subset of the features. Models of the feature
    group `TWIN_GROUP` are preferred, then models with the fewest features. Among these, the model with the lowest error
    on its hardest split becomes the twin. After a recalibration, errors may hardly differ: then the error before the
    recalibration decides (`kepler_core.selection.ranking`). If there is no such model, a model has no twin.
    """
    trained: list[_Trained] = []
    for job, result in zip(jobs, results, strict=True):
        if result.files is not None and job.rows.output_type == "AbsPower":
            honesty = read_honesty(result.metadata)
            assert honesty is not None  # every training writes the block
            trained.append(_Trained(job, result, honesty))
    changed = {
        id(entry.result): entry.result.with_honesty(msgspec.structs.replace(entry.honesty, twin=twin))
        for entry in trained
        if (twin := _twin(entry, trained)) is not None
    }
    return [changed.get(id(result), result) for result in results]


def twin_of(metadata: Mapping[str, Any]) -> tuple[str, Twin] | None:
    """Return the path of a model's twin in the pipeline and its description; None if the model has no twin.

    `metadata` is the model's metadata. Raises `ModelError` if its block `honesty` (errors, intervals and twin) is
    malformed.
    """
    honesty = read_honesty(metadata)
    if honesty is None or honesty.twin is None:
        return None
    return twin_path(model_path(metadata), honesty.twin), honesty.twin


def with_description(files: Mapping[str, bytes], twin: Twin | None) -> Model:
    """Return a model with another description of its twin in the metadata. `files` are the model's files by name."""
    metadata = msgspec.json.decode(files[METADATA_FILE])
    metadata[HONESTY_KEY]["twin"] = msgspec.to_builtins(twin)
    return metadata, {**files, METADATA_FILE: indented_json(metadata)}


def _twin(model: _Trained, trained: Sequence[_Trained]) -> Twin | None:
    features = set(model.job.rows.features)
    candidates = [
        other
        for other in trained
        if other.job.rows.source == model.job.rows.source
        and set(other.job.rows.features) < features
        and set(model.job.rows.components) == set(other.job.rows.components)
    ]
    if not candidates:
        return None
    of_group = [other for other in candidates if other.job.rows.feature_group == TWIN_GROUP]
    fewest = min(len(other.job.rows.features) for other in candidates)
    chosen = _least_wrong(of_group or [other for other in candidates if len(other.job.rows.features) == fewest])
    limits = _limits(model, chosen)
    if limits is None:
        return None
    return Twin(str(chosen.result.metadata["model_name"]), chosen.job.rows.feature_group, limits)


def _least_wrong(candidates: Sequence[_Trained]) -> _Trained:
    """Return the candidate with the lowest error. A split counts only if it was measured for all candidates."""
    measured = [{name: split for name, split in one.honesty.splits.items() if split is not None} for one in candidates]
    common = set.intersection(*(set(splits) for splits in measured))  # every training measures the split `blocks`
    errors = np.array([max(splits[name].hardest for name in common) for splits in measured])
    uncertain, earlier = (
        np.array([getattr(splits["blocks"], key) for splits in measured], dtype=np.float64)
        for key in ("standard_error", "earlier")
    )
    return candidates[least_error(errors, uncertain, earlier)[0]]


def _limits(model: _Trained, twin: _Trained) -> dict[str, float] | None:
    """Return the limit of the difference from the twin, by component; None if no sample was held out for both models.

    The limit is a quantile of the differences between the predictions of the two models for the same held-out samples.
    The samples are those of the split with the largest error of `model`, among the splits that were measured for both
    models. A limit is at least the noise floor of the measured power.
    """
    common = [name for name in model.result.held_out if name in twin.result.held_out]
    if not common:
        return None
    split: SplitName = max(common, key=lambda name: _mae(model.honesty, name))
    own, other = _common_samples(model.job, twin.job)
    limits = {}
    for component in model.job.rows.components:
        difference = np.abs(
            model.result.held_out[split][component][own] - twin.result.held_out[split][component][other]
        )
        difference = difference[np.isfinite(difference)]
        if len(difference) == 0:
            return None
        floor = model.honesty.intervals[component].noise
        limits[component] = round(max(conformal_quantile(difference, LIMIT_LEVEL), floor), 6)
    return limits


def _mae(honesty: Honesty, split: SplitName) -> float:
    errors = honesty.splits[split]
    return -1.0 if errors is None else errors.hardest


def _common_samples(one: FitJob, two: FitJob) -> tuple[IntArray, IntArray]:
    """Return the indices, in `one` and in `two`, of the samples that are in both data sets."""
    indices = np.intersect1d(_keys(one), _keys(two), assume_unique=True, return_indices=True)[1:]
    return np.asarray(indices[0], dtype=np.int64), np.asarray(indices[1], dtype=np.int64)


def _keys(job: FitJob) -> FloatArray:
    """Return a distinct complex number for each sample, from its stream and time."""
    return np.asarray(job.rows.stream + 1j * job.rows.time)
