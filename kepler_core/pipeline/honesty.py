"""Make the block `honesty` of a model's metadata from the predictions for held-out samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.dataset import Dataset
from kepler_core.honesty.document import MAX_NODE_NAMES, ComponentErrors, Honesty, Seen, SplitErrors, SplitName
from kepler_core.honesty.document import SPLIT_NAMES as SPLITS
from kepler_core.honesty.interval import LEVEL
from kepler_core.honesty.ratios import ratios
from kepler_core.pipeline.interval_terms import interval_terms
from kepler_core.pipeline.node_gains import with_own_gains
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.pipeline.validation import Fold, score

SECONDS_PER_DAY = 86400

HeldOut = Mapping[SplitName, Mapping[str, FloatArray]]
"""Predicted watts of a node by split and component, each of shape (samples,); NaN for samples that are not tested."""


def seen(dataset: Dataset, rows: TrainingRows) -> Seen:
    """Return a description of the data that models are trained on."""
    names = dataset.index.levels[1]
    nodes = np.unique(rows.node)
    columns = dict(zip(rows.features, rows.node_X.T, strict=True))
    return Seen(
        recordings=len(np.unique(rows.recording)),
        days=len(np.unique(rows.time // SECONDS_PER_DAY)),
        nodes=len(nodes),
        samples=len(rows.time),
        features={name: _range(values) for name, values in columns.items()},
        ratios={name: _range(values) for name, values in ratios(columns).items()},
        node_names=[str(names[node])[:200] for node in nodes[:MAX_NODE_NAMES]],
    )


def _range(values: FloatArray) -> tuple[float, float]:
    return float(f"{values.min():.6g}"), float(f"{values.max():.6g}")


def honesty(
    rows: TrainingRows, held_out: HeldOut, parts: Mapping[SplitName, Sequence[Fold]], description: Seen
) -> Honesty:
    """Return the block `honesty` of a model: its errors, its intervals, and the data of its training.

    `held_out` has the predictions for the held-out samples of each split, and `parts` has the folds of each split.
    """
    splits: dict[SplitName, SplitErrors | None] = dict.fromkeys(SPLITS)
    for name, predicted in held_out.items():
        splits[name] = errors_of(rows, predicted, parts[name])
    measured = [(errors.hardest, name) for name, errors in splits.items() if errors is not None]
    intervals = {}
    if rows.output_type == "AbsPower":
        intervals = {component: interval_terms(rows, held_out, component) for component in rows.components}
    return Honesty(
        splits=splits, hardest=max(measured)[1], seen=description, level=LEVEL, intervals=intervals, twin=None
    )


def errors_of(rows: TrainingRows, predicted: Mapping[str, FloatArray], parts: Sequence[Fold]) -> SplitErrors:
    """Return the errors of predicted node watts.

    `predicted` maps components to watts of shape (samples,). The watts are NaN for samples that are not tested. `parts`
    are the folds. For AbsPower, `SplitErrors.worst` is computed without the gains of the nodes
    (`kepler_core.pipeline.node_gains`): the gains are the same for all models, and no model can know them. If the gains
    counted as errors, the node that differs most from all others would decide which model counts as the best.
    """
    worst = 0.0
    components: dict[str, ComponentErrors] = {}
    for component, watts in predicted.items():
        tested = np.isfinite(watts)
        measured = rows.node_watts[component][tested]
        scores = score(watts[tested], measured, rows.load[tested])
        components[component] = ComponentErrors(
            mae=_rounded(scores.mae),
            bias=_rounded(float(np.mean(watts[tested] - measured))),
            idle_bias=_rounded(scores.idle_error),
            rows=scores.rows,
            mape=None if scores.mape is None else _rounded(scores.mape),
        )
        ranked = watts.copy()
        if rows.output_type == "AbsPower":
            ranked[tested] = with_own_gains(watts[tested], measured, rows.node[tested])
        error = np.abs(ranked - rows.node_watts[component])
        for fold in parts:
            if (of_part := fold.test & tested).any():
                worst = max(worst, float(error[of_part].mean()))
    mae = max(errors.mae for errors in components.values())
    return SplitErrors(mae=mae, components=components, parts=len(parts), worst=_rounded(worst))


def _rounded(value: float) -> float:
    return round(value, 6)
