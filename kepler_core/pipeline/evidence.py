"""Evidence: the predictions of a trained model for held-out samples, and the measured power.

The hook `kepler_publishing` passes the evidence to listeners, e.g. to the HTML report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.pipeline.fit import FitJob, FitResult
from kepler_core.pipeline.honesty import HeldOut
from kepler_core.vocabulary import load_feature


@attrs.frozen(eq=False)
class Evidence:
    """The predictions of one model for held-out samples. A sample is a node at a timestamp."""

    metadata: Mapping[str, Any]
    """Content of the model's `metadata.json`."""
    held_out: HeldOut
    """Predicted watts by split and component, each of shape (samples,); NaN for samples that were not tested. A sample
    is predicted by a model that was not trained on this sample."""
    measured: Mapping[str, FloatArray]
    """Measured watts by component, each of shape (samples,). For DynPower, this is the dynamic power of the node."""
    time: FloatArray
    """Timestamp of each sample in Unix seconds, shape (samples,)."""
    node: IntArray
    """For each sample, the index of its node in `node_names`, shape (samples,)."""
    node_names: Sequence[str]
    load_feature: str
    load: FloatArray
    """Value of the load feature for the whole node, shape (samples,)."""


def evidence(job: FitJob, result: FitResult) -> Evidence:
    """Return the evidence of a trained model: its predictions for held-out samples, and the measured power."""
    rows = job.rows
    codes, node = np.unique(rows.node, return_inverse=True)
    # `Seen` names at most MAX_NODE_NAMES nodes, so the other nodes get a number as their name
    names = [*job.seen.node_names, *(f"node {code}" for code in codes[len(job.seen.node_names) :])]
    return Evidence(
        metadata=result.metadata,
        held_out=result.held_out,
        measured=rows.node_watts,
        time=rows.time,
        node=np.asarray(node.reshape(len(rows.node)), dtype=np.int64),
        node_names=names,
        load_feature=load_feature(rows.features),
        load=rows.load,
    )
