"""A request for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from kepler_core.selection.filters import Filter
from kepler_core.vocabulary import OutputType

DEFAULT_SOURCE = "rapl-sysfs"


@attrs.frozen
class ModelRequest:
    """A request for a model: the properties that the model must have. Only the output type is required."""

    output_type: OutputType
    metrics: tuple[str, ...] | None = None
    """The features that the client can provide, in the client's order. Models that need another feature do not
    fit. If `metrics` is None, models may need any features."""
    source: str = DEFAULT_SOURCE
    """Name of an energy source, an alias, or a name by which Kepler requests several sources, e.g. `intel_rapl`."""
    pipeline: str | None = None
    feature_group: str | None = None
    trainer: str | None = None
    filter: Filter = attrs.field(factory=Filter)
    node_type: int | None = None
    """Number of the requested node type. A model of any pipeline is accepted if its node type has this number.

    If there is no such model, node types are compared with `machine_spec`. But if `machine_spec` is empty or
    `loose_node_type` is False, no model is selected.
    """
    machine_spec: Mapping[str, Any] = attrs.field(factory=dict)
    loose_node_type: bool = True
    """Whether a model for a similar machine is accepted if no model is for exactly the machine `machine_spec`.

    If True, the models of the most similar node type are accepted.
    """
    weights: bool = False
    """Whether the model must have weights that Kepler may evaluate itself."""
    portable: bool = False
    """Whether Kepler Core must be able to load the model. It can load a portable model, or a model with linear weights.

    It never loads pickles. If the best model for the request contains only pickles, another model or linear weights
    are selected instead (see `stand_in`).
    """
    linear_weights: bool = False
    """Whether the model must have linear weights that Kepler Core can evaluate, and must not be portable."""
    pickled: bool = False
    """Whether the estimator of kepler-model-server 0.7 must be able to load the model's zip file."""
