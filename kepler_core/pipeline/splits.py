"""Splits: the ways to hold out data on which a model's errors are measured.

The errors on blocks of time hold for the same machine, day and work. The splits `regimes`, `recordings` and `nodes`
hold out what a model meets later: other work, another day, another machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, IntArray
from kepler_core.honesty.document import SplitName
from kepler_core.pipeline.regimes import regimes
from kepler_core.pipeline.rows import TrainingRows
from kepler_core.pipeline.spec import ValidationSpec
from kepler_core.pipeline.validation import Fold, folds
from kepler_core.vocabulary import MIN_TIMESTAMPS

MAX_PARTS = 8
"""Recordings or nodes are held out one by one. If there are more, they are divided into this number of groups."""

_MIN_TRAIN = MIN_TIMESTAMPS
"""Minimum number of samples to train on. A part that leaves fewer samples is not held out."""


def splits(
    spec: ValidationSpec, held_out: Sequence[Fold], rows: TrainingRows, memory: int, seed: int
) -> dict[SplitName, Sequence[Fold]]:
    """Return the folds of each split that the data allow.

    `held_out` are the folds of the user's validation scheme `spec`; a split of the same name uses them as they are.
    `memory` is the number of timestamps that the extractor combines into one row. The split `blocks` is always there.
    """
    blocks = folds(attrs.evolve(spec, scheme="blocks"), rows.stream, rows.time, memory)
    by_name: dict[SplitName, Sequence[Fold]] = {"blocks": blocks}
    group = regimes(rows.features, rows.node_X, seed)
    candidates: dict[SplitName, list[Fold]] = {
        "regimes": [] if group is None else _leave_out_groups(group, _neighbours(rows.stream, memory - 1)),
        "recordings": _leave_out_groups(_grouped(rows.recording)),
        "nodes": _leave_out_groups(_grouped(rows.node)),
    }
    by_name |= {name: usable for name, usable in candidates.items() if len(usable) > 1}
    if spec.scheme in by_name:
        by_name[spec.scheme] = held_out
    return by_name


def _grouped(code: IntArray) -> IntArray:
    """Return the group of each sample: the number of its recording or node, modulo `MAX_PARTS`."""
    return np.asarray(np.unique(code, return_inverse=True)[1].reshape(len(code)) % MAX_PARTS, dtype=np.int64)


def _leave_out_groups(group: IntArray, reach: Mapping[int, IntArray] | None = None) -> list[Fold]:
    """Return a fold for each group, without the folds that leave too few samples to train on.

    `reach` maps 1, 2, … to the index of the sample that is this number of samples later in the same stream (its own
    index at the end of a stream). Samples within this reach of a test sample are not trained on.
    """
    held_out = []
    for number in np.unique(group):
        test = group == number
        near: BoolArray = test.copy()
        for later in (reach or {}).values():
            near |= test[later]
            near[later[test]] = True
        if (~near).sum() >= _MIN_TRAIN:
            held_out.append(Fold(~near, test))
    return held_out


def _neighbours(stream: IntArray, reach: int) -> dict[int, IntArray]:
    """Return, for each distance 1 … `reach`, the index of the sample that much later in the same stream."""
    index = np.arange(len(stream))
    neighbours = {}
    for distance in range(1, reach + 1):
        later = np.minimum(index + distance, len(stream) - 1)
        neighbours[distance] = np.where(stream[later] == stream, later, index)
    return neighbours
