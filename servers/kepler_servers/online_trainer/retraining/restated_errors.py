"""Increase the validated errors in a model's metadata if the model's errors on all stored samples are higher.

A model that was validated on little data (an idle machine, one workload) has a low validated error. Model selection
would prefer it to a model that was validated on many workloads. Therefore, if a model's error on all stored samples is
higher than its validated error, the published metadata state the higher error. In the block `honesty`, the errors on
the kinds of held-out data (splits) and the quantiles of the intervals are increased, too. Models are ranked by the
errors on the splits.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import ModelError
from kepler_core.honesty.document import (
    HONESTY_KEY,
    ComponentErrors,
    Honesty,
    IntervalTerms,
    SplitErrors,
    read_honesty,
)
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.interval_terms import conformal_quantile
from kepler_core.pipeline.next_version import Model, read_files
from kepler_core.pipeline.validation import score
from kepler_core.store.models import StoredModel
from kepler_servers.online_trainer.retraining.candidates import Candidate
from kepler_servers.online_trainer.retraining.evaluation import Evaluation, Evaluator

PARTS = 5
"""Number of parts into which the stored samples are divided to find the part with the highest error (the hardest
part)."""


def restate_models(
    evaluator: Evaluator, served: Mapping[str, StoredModel], winners: Mapping[str, Candidate]
) -> dict[str, Model]:
    """Increase the stated errors of the next version's models where they are too low.

    Return the changed models by path.
    """
    restated: dict[str, Model] = {}
    for path, entry in served.items():
        if path not in winners and entry.portable:
            evaluation = evaluator.evaluate(entry, on_all=True)
            model = None if evaluation is None else restate(entry.metadata, read_files(entry), evaluation)
            if model is not None:
                restated[path] = model
    for path, winner in winners.items():
        # a retrained model was just validated on the stored samples, so its stated errors are right
        if winner.kind == "recalibrated":
            evaluation = evaluator.evaluate(winner, on_all=True)
            model = None if evaluation is None else restate(winner.metadata, winner.files, evaluation)
            if model is not None:
                restated[path] = model
    return restated


def restate(metadata: Mapping[str, Any], files: Mapping[str, bytes], evaluation: Evaluation) -> Model | None:
    """Raise the stated errors of a model to its errors in the evaluation, and return the changed model.

    In the metadata's block `honesty`, the errors on held-out blocks of time and the quantiles of the intervals are
    raised in the same way. Returns None if no stated error is lower than the error in the evaluation.
    """
    restated = dict(metadata)
    components = dict(metadata.get("validation", {}).get("components", {}))
    higher = []
    for component, predicted in evaluation.predicted.items():
        scores = score(predicted, evaluation.measured[component], evaluation.load)
        stated = metadata.get(f"{component}_mae")
        if isinstance(stated, int | float) and scores.mae <= stated:
            continue
        values = {name: _rounded(value) for name, value in attrs.asdict(scores).items()}
        components[component] = {**components.get(component, {}), **values}
        restated[f"{component}_mae"], restated[f"{component}_mape"] = values["mae"], values["mape"]
        higher.append(component)
    if not higher:
        return None
    maes = [restated[f"{c}_mae"] for c in evaluation.predicted]
    mapes = [mape for c in evaluation.predicted if (mape := restated.get(f"{c}_mape")) is not None]
    if isinstance(metadata.get("mae"), int | float):
        maes.append(metadata["mae"])
    restated["mae"] = max(maes)
    restated["mape"] = max(mapes) if mapes else None
    restated["validation"] = {**metadata.get("validation", {}), "components": components}
    with contextlib.suppress(ModelError):  # a malformed block `honesty` (errors) is not used, so it is left unchanged
        if (honesty := read_honesty(metadata)) is not None:
            restated[HONESTY_KEY] = msgspec.to_builtins(_restated_honesty(honesty, evaluation, higher))
    restated["restated"] = {"components": higher, "instants": len(evaluation.samples)}
    content = msgspec.json.format(msgspec.json.encode(restated), indent=1) + b"\n"
    return restated, {**files, METADATA_FILE: content}


def _restated_honesty(honesty: Honesty, evaluation: Evaluation, higher: Sequence[str]) -> Honesty:
    """Raise the errors and quantiles in the block `honesty` to those of the evaluation, and return the block.

    `higher` lists the components whose stated errors are too low. Models are ranked by their error on the part of the
    samples with the highest error. So the evaluation's samples are divided into `PARTS` consecutive parts.
    """
    blocks = honesty.splits.get("blocks")
    components = {} if blocks is None else dict(blocks.components)
    worst = 0.0 if blocks is None else blocks.hardest
    intervals = dict(honesty.intervals)
    for name in higher:
        predicted, measured = evaluation.predicted[name], evaluation.measured[name]
        error = np.abs(predicted - measured)
        scores = score(predicted, measured, evaluation.load)
        components[name] = ComponentErrors(
            mae=_rounded(scores.mae),
            bias=_rounded(float(np.mean(predicted - measured))),
            idle_bias=_rounded(scores.idle_error),
            rows=scores.rows,
            mape=_rounded(scores.mape),
        )
        worst = max(worst, *(float(part.mean()) for part in np.array_split(error, min(PARTS, len(error)))))
        if name in intervals:
            intervals[name] = _widened(intervals[name], predicted, error)
    mae = max(errors.mae for errors in components.values())
    parts = PARTS if blocks is None else blocks.parts
    splits = {**honesty.splits, "blocks": SplitErrors(mae, components, parts, _rounded(worst))}
    hardest = max((errors.hardest, name) for name, errors in splits.items() if errors is not None)[1]
    return msgspec.structs.replace(honesty, splits=splits, hardest=hardest, intervals=intervals)


def _widened(terms: IntervalTerms, predicted: FloatArray, error: FloatArray) -> IntervalTerms:
    """Make the intervals of a component wider if the errors of its predictions are higher than expected.

    `terms` has one quantile of the error in watts for each bin of predicted watts. If the errors in `error` have a
    higher quantile in a bin, this quantile replaces the bin's quantile.
    """
    bins = np.searchsorted(terms.edges, predicted, side="right")
    quantiles = [
        max(quantile, _rounded(conformal_quantile(error[bins == number])))
        for number, quantile in enumerate(terms.quantiles)
    ]
    return msgspec.structs.replace(terms, quantiles=quantiles)


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
