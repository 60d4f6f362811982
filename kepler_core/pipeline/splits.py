"""Splits: the ways to hold out data on which a model's errors are measured.

The errors on blocks of time are valid for the machine, the day and the work of the training. The splits `regimes`,
`recordings` and `nodes` show the errors for other work, for another day and for another machine.
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
"""Maximum number of folds of the splits `recordings` and `nodes`.

Usually, each fold holds out one recording or node. If there are more recordings or nodes than this number, each fold
holds out a group of them."""

_MIN_TRAIN = MIN_TIMESTAMPS
"""Minimum number of samples to train on. If a fold leaves fewer samples for the training, it is not used."""


def splits(
    spec: ValidationSpec, held_out: Sequence[Fold], rows: TrainingRows, memory: int, seed: int
) -> dict[SplitName, Sequence[Fold]]:
    """Return the folds of each split (kind of held-out data) for which there are enough data.

    `held_out` are the folds of the user's validation scheme `spec`. If the scheme is one of these splits, e.g. `nodes`,
    the result has the folds `held_out` for this split. `memory` is the number of timestamps that the extractor combines
    into one row. The result always has the split `blocks`.
    """
    blocks = folds(attrs.evolve(spec, scheme="blocks"), rows.stream, rows.time, memory, seed=seed)
    by_name: dict[SplitName, Sequence[Fold]] = {"blocks": blocks}
    group = regimes(rows.features, rows.node_X, seed, spec.regimes)
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
    """Return a fold for each group, in which the group is held out. Leave out folds with too few samples to train on.

    `reach` maps each distance 1, 2, … to an array of shape (samples,). For each sample, the array has the index of the
    sample that follows at this distance in the same stream. If there is no such sample, it has the index of the sample
    itself. Samples at these distances before or after a test sample are not trained on.
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
    """Return the sample that follows each sample at the distances 1 to `reach` (see `_leave_out_groups`)."""
    index = np.arange(len(stream))
    neighbours = {}
    for distance in range(1, reach + 1):
        later = np.minimum(index + distance, len(stream) - 1)
        neighbours[distance] = np.where(stream[later] == stream, later, index)
    return neighbours
