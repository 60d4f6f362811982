"""Pairs of models with equal energy source, output type, feature group and trainer, one from each side."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from kepler_core.comparison.sides import Key, Side, SideModel, SideName
from kepler_core.honesty.document import SPLIT_NAMES, SplitName
from kepler_core.pipeline.held_out_samples import HeldOutSamples

MIN_COMMON_SAMPLES = 20
"""Minimum number of samples for which both models have stored predictions. With fewer samples, the models are not
compared sample by sample."""
SAME_WATTS = 0.01
"""Two values of the measured watts of a sample count as equal if they differ by at most this fraction. The files with
held-out samples store only four digits."""


@attrs.frozen
class CommonError:
    """The errors of two models on the samples that neither was trained on, for the component with the largest error."""

    component: str
    split: SplitName
    samples: int
    first: float
    """Mean absolute error of side A's model in watts."""
    second: float
    """Mean absolute error of side B's model in watts."""
    standard_error: float
    """Standard error of `second - first` in watts. The formula treats the samples as independent, because they are
    spread over the recording at random."""


@attrs.frozen(eq=False)
class Pair:
    """A model of side A and the model of side B with the same key (see `Key`). One of the models may be missing."""

    key: Key
    node_type: int
    first: SideModel | None
    second: SideModel | None

    @property
    def split(self) -> SplitName | None:
        """Of the splits that were measured for both models, the split with the largest error; None if there is none."""
        if self.first is None or self.second is None:
            return None
        one, two = self.first.errors, self.second.errors
        common = [name for name in SPLIT_NAMES if name in one and name in two]
        return max(common, key=lambda name: max(one[name].mae, two[name].mae), default=None)

    @property
    def better(self) -> SideName | None:
        """The side whose model has the lower error on `split`; None if an error is unknown or the errors are equal."""
        split = self.split
        if split is None or self.first is None or self.second is None:
            return None
        one, two = self.first.errors[split].mae, self.second.errors[split].mae
        return None if one == two else "A" if one < two else "B"

    @property
    def only(self) -> SideName | None:
        """If only one side has a model with this key, the name of this side; otherwise None."""
        return "A" if self.second is None else "B" if self.first is None else None

    def as_dict(self) -> dict[str, Any]:
        """Return this pair of models as a JSON object."""
        keys = ("source", "output_type", "feature_group", "trainer")
        return {
            **dict(zip(keys, self.key, strict=True)),
            "node_type": self.node_type,
            "A": None if self.first is None else self.first.as_dict(),
            "B": None if self.second is None else self.second.as_dict(),
            "split": self.split,
            "better": self.better,
            "common_samples": None if (common := common_error(self)) is None else attrs.asdict(common),
        }


def pairs_of(one: Side, two: Side) -> list[Pair]:
    """Return the pairs of the models of A and B, sorted by key.

    Models of node types with the same number form a pair. If each side has exactly one model with a key, these two
    models form a pair even if the numbers differ. The reason is that each pipeline numbers its node types itself.
    """
    by_key: dict[Key, tuple[dict[int, SideModel], dict[int, SideModel]]] = {}
    for number, side in enumerate((one, two)):
        for model in side.models:
            by_key.setdefault(model.key, ({}, {}))[number][model.stored.node_type] = model
    pairs = []
    for key, (first, second) in sorted(by_key.items()):
        if len(first) == len(second) == 1:
            node_type = next(iter(first))
            pairs.append(Pair(key, node_type, *first.values(), *second.values()))
            continue
        pairs += [
            Pair(key, node_type, first.get(node_type), second.get(node_type))
            for node_type in sorted(first.keys() | second.keys())
        ]
    return pairs


def common_samples(one: SideModel, two: SideModel) -> tuple[HeldOutSamples, HeldOutSamples] | None:
    """Return the held-out samples that are stored for both models, in the same order; None if there are none.

    Only samples with equal measured watts are returned (see `SAME_WATTS`).
    """
    first, second = one.held_out, two.held_out
    if isinstance(first, str) or isinstance(second, str):
        return None
    place = {key: row for row, key in enumerate(second.keys)}
    rows = [(row, place[key]) for row, key in enumerate(first.keys) if key in place]
    if not rows:
        return None
    left, right = np.array(rows, dtype=np.int64).T
    first, second = first.subset(left), second.subset(right)
    alike = np.ones(len(rows), dtype=bool)
    for name in first.measured.keys() & second.measured.keys():
        watts, other = first.measured[name], second.measured[name]
        alike &= ~(np.abs(watts - other) > SAME_WATTS * np.maximum(np.abs(watts), np.abs(other)))
    same = np.flatnonzero(alike)
    return (first.subset(same), second.subset(same)) if len(same) else None


def common_error(pair: Pair) -> CommonError | None:
    """Return the errors on the held-out samples that are stored for both models, in the split with the largest error.

    Return None if there are fewer than `MIN_COMMON_SAMPLES` such samples. The samples must also have equal measured
    watts, because different simulated recordings may have equal names and times.
    """
    samples = None if pair.first is None or pair.second is None else common_samples(pair.first, pair.second)
    if samples is None:
        return None
    first, second = samples
    errors_on_common: list[CommonError] = []
    for split in SPLIT_NAMES:
        one, two = first.predicted.get(split, {}), second.predicted.get(split, {})
        for component in one.keys() & two.keys() & first.measured.keys() & second.measured.keys():
            errors = [
                np.abs(predicted[component] - side.measured[component])
                for predicted, side in ((one, first), (two, second))
            ]
            tested = np.isfinite(errors[0]) & np.isfinite(errors[1])
            if (count := int(tested.sum())) >= MIN_COMMON_SAMPLES:
                a, b = float(errors[0][tested].mean()), float(errors[1][tested].mean())
                spread = float(np.std((errors[1] - errors[0])[tested], ddof=1)) / count**0.5
                errors_on_common.append(
                    CommonError(component, split, count, round(a, 6), round(b, 6), round(spread, 6))
                )
    return max(
        errors_on_common, key=lambda error: (max(error.first, error.second), error.split, error.component), default=None
    )
