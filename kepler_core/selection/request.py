"""The request for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from kepler_core.selection.filters import Filter
from kepler_core.vocabulary import OutputType

DEFAULT_SOURCE = "rapl-sysfs"


@attrs.frozen
class ModelRequest:
    """The properties that a model must have. All but the output type are optional."""

    output_type: OutputType
    metrics: tuple[str, ...] | None = None
    """The features that the client can provide, in the client's order. A model may need no other. None:
    any feature."""
    source: str = DEFAULT_SOURCE
    """Energy source: a name, an alias, or the name under which Kepler requests several sources."""
    pipeline: str | None = None
    feature_group: str | None = None
    trainer: str | None = None
    filter: Filter = attrs.field(factory=Filter)
    node_type: int | None = None
    """Number of the requested node type. It selects the models of that number in every pipeline."""
    machine_spec: Mapping[str, Any] = attrs.field(factory=dict)
    loose_node_type: bool = True
    """Accept the most similar node type if none is equal to the machine."""
    weights: bool = False
    """Accept only models whose weights Kepler may evaluate itself."""
    portable: bool = False
    """Accept only models that Kepler Core can load."""
