"""Leave out features that measure nothing although the CPUs run, e.g. eBPF features on a real-time kernel.

A model that uses only such features would estimate the power of an idle machine at any load.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from kepler_core.recording.counts import Counts
from kepler_core.recording.laid_out import LaidOut
from kepler_core.vocabulary import WORKLOAD_FEATURES, dead_features


def leave_out_dead_features(laid_out: LaidOut) -> None:
    """Leave out the dead features of each node (see `kepler_core.vocabulary.dead_features`).

    If a feature is dead on all nodes that have it, the feature is removed, as if the recording lacked it.
    """
    known = [feature for feature in WORKLOAD_FEATURES if feature in laid_out.node_features]
    columns = {feature: laid_out.node_features[feature] for feature in known}
    is_known = {feature: laid_out.any_in_stream(np.isfinite(values)) for feature, values in columns.items()}
    moves = {feature: laid_out.any_in_stream(values > 0) for feature, values in columns.items()}
    table = np.column_stack([*is_known.values(), *moves.values()]) if known else np.empty((0, 0), dtype=bool)
    patterns, pattern = np.unique(table, axis=0, return_inverse=True)
    is_dead = {feature: np.zeros(len(laid_out.nodes), dtype=bool) for feature in known}
    for number, of_pattern in enumerate(patterns.tolist()):
        with_values = {feature: of_pattern[len(known) + at] for at, feature in enumerate(known) if of_pattern[at]}
        for feature in dead_features(with_values):
            is_dead[feature] |= pattern == number
    for feature, streams in is_dead.items():
        if not streams.any():
            continue
        laid_out.drop_feature("dead_features", feature, np.flatnonzero(streams[laid_out.sample_stream]))
        for features in (laid_out.node_features, laid_out.container_features):
            if feature in features and not np.isfinite(features[feature]).any():
                del features[feature]


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
    """Return why no model is trained on features that are 0 although the CPUs run (dead features).

    `names` are the names of the features in the message.
    """
    return f"{', '.join(names)}: 0 at all times although the CPUs run"
