"""Leave out features that measure nothing although the CPUs run, e.g. eBPF features on a real-time kernel.

A model that uses only such features would estimate the power of an idle machine at any load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kepler_core.arrays import IntArray
from kepler_core.recording.counts import Counts
from kepler_core.recording.laid_out import LaidOut
from kepler_core.vocabulary import WORKLOAD_FEATURES, dead_features


def leave_out_dead_features(laid_out: LaidOut) -> None:
    """Leave out the dead features of each node (see `kepler_core.vocabulary.dead_features`).

    If a feature is dead on all nodes that have it, the feature is removed, as if the recording lacked it.
    """
    known = [feature for feature in WORKLOAD_FEATURES if feature in laid_out.node_features]
    dropped: dict[str, list[IntArray]] = {}
    for samples in laid_out.streams():
        values = {feature: laid_out.node_features[feature][samples] for feature in known}
        moves = {feature: bool((column > 0).any()) for feature, column in values.items() if np.isfinite(column).any()}
        for feature in dead_features(moves):
            dropped.setdefault(feature, []).append(np.arange(samples.start, samples.stop))
    for feature, parts in dropped.items():
        laid_out.drop_feature("dead_features", feature, np.concatenate(parts))
        for columns in (laid_out.node_features, laid_out.container_features):
            if feature in columns and not np.isfinite(columns[feature]).any():
                del columns[feature]


def split_dead(features: Iterable[str], counts: Counts) -> tuple[list[str], list[str]]:
    """Split features that have no values into two lists: dead features, and features that the recordings lack.

    A dead feature was left out because it is 0 at all times although the CPUs run.
    """
    dead: list[str] = []
    absent: list[str] = []
    for feature in features:
        (dead if feature in counts.dead_features else absent).append(feature)
    return dead, absent


def reason_of_dead(names: Sequence[str]) -> str:
    """Return why no model is trained on dead features. `names` are the names of the features in the message."""
    return f"{', '.join(names)}: 0 at all times although the CPUs run"
