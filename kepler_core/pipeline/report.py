"""The report of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from kepler_core.honesty.document import read_honesty
from kepler_core.honesty.interval import widest_half_width
from kepler_core.pipeline.fit import FitResult
from kepler_core.store.layout import model_path


@attrs.define
class Report:
    """The models that a training published, and its failures and skipped data sets.

    The command `train --json` prints the result of `as_dict`.
    """

    pipeline: str
    store: str
    version: int | None = None
    models: list[dict[str, Any]] = attrs.field(factory=list)
    failed: list[dict[str, Any]] = attrs.field(factory=list)
    skipped: list[dict[str, Any]] = attrs.field(factory=list)
    notes: list[dict[str, Any]] = attrs.field(factory=list)
    """Notes that isolators wrote about data sets."""
    findings: list[dict[str, Any]] = attrs.field(factory=list)
    """Irregularities of the recordings, each in the form of `Finding.as_dict`; the severe irregularities come first."""
    pairs: list[dict[str, Any]] = attrs.field(factory=list)
    """The pairs of a host and a guest from which models of virtual machines were trained: `Pair.description`."""
    node_type: int = 0
    """Number of the node type of the models. With several node types, it is the type with the most samples."""
    node_types: list[int] = attrs.field(factory=list)
    """Numbers of all node types for which this training has published models."""
    machine_notes: list[str] = attrs.field(factory=list)
    """What is missing, impossible or contradictory in the descriptions of machines that come from metrics."""
    nodes: list[dict[str, Any]] = attrs.field(factory=list)
    """The tables of nodes, which compare the nodes of a type (`kepler_core.pipeline.node_tables.NodeTable`)."""
    seconds: dict[str, float] = attrs.field(factory=dict)
    page: str | None = None
    """Path of the report for people (`report.html`) in the pipeline; None if no listener has added it."""

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self)


def held_out(validation: Mapping[str, Any]) -> str:
    """Describe in words the data that the errors of a model were measured on.

    `validation` is the value of the key `validation` in the model's metadata.
    """
    match validation["scheme"]:
        case "blocks":
            return f"blocks of time, held out in {validation['folds']} folds"
        case "last":
            return f"the last {100 * validation['last_fraction']:g} % of each node's time"
        case "recordings":
            return "whole nodes of recordings, held out one after the other"
        case "nodes":
            return f"whole nodes, held out in {validation['folds']} folds"
        case other:
            return f"data held out by the scheme {other}"


def _honesty(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary of the block `honesty` (errors and intervals) of a model's metadata.

    The summary has the errors by split, the hardest split, the typical half-width of the interval, the bias at idle,
    and the amounts of training data.

    The errors are mean absolute errors. The half-width belongs to the component with the widest interval, for a machine
    of the training; it is None for DynPower.
    """
    honesty = read_honesty(metadata)
    assert honesty is not None  # every training writes the block
    half_width = widest_half_width(honesty)
    idle_biases = [errors.idle_bias for errors in honesty.hardest_errors.components.values()]
    return {
        "splits": {name: None if errors is None else errors.mae for name, errors in honesty.splits.items()},
        "hardest": honesty.hardest,
        "half_width": None if half_width is None else round(half_width, 6),
        "idle_bias": max(idle_biases, key=abs),
        "seen": {name: getattr(honesty.seen, name) for name in ("recordings", "days", "nodes", "samples")},
    }


def described(result: FitResult) -> dict[str, Any]:
    """Return the report's entry for a fit: the model and its errors, or the reason why the fit failed."""
    if result.files is None:
        return {**result.key, "reason": result.reason}
    metadata = result.metadata
    components = metadata["validation"]["components"]
    return {
        **result.key,
        "model_name": metadata["model_name"],
        "node_type": metadata["node_type"],
        "path": model_path(metadata),
        "held_out": held_out(metadata["validation"]),
        "mae": metadata["mae"],
        "mape": metadata["mape"],
        **_honesty(metadata),
        "components": {
            component: {k: v for k, v in scores.items() if k not in ("constant_mae", "line_mae")}
            for component, scores in components.items()
        },
        "baselines": {
            component: {"constant_mae": scores["constant_mae"], "line_mae": scores["line_mae"]}
            for component, scores in components.items()
        },
    }
