"""What is asked of a store: the request for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from kepler_core.selection.filters import Filter
from kepler_core.vocabulary import OutputType

DEFAULT_SOURCE = "rapl-sysfs"


@attrs.frozen
class ModelRequest:
    """Which model is wanted. Everything but the output type only narrows the choice."""

    output_type: OutputType
    metrics: tuple[str, ...] | None = None
    """The features that are there, in the client's order: a model may need no other. None: all."""
    source: str = DEFAULT_SOURCE
    """Energy source: a name, an alias, or the name under which Kepler asks for several of them."""
    pipeline: str | None = None
    feature_group: str | None = None
    trainer: str | None = None
    filter: Filter = attrs.field(factory=Filter)
    node_type: int | None = None
    """Number of a node type, of whichever pipeline."""
    machine_spec: Mapping[str, Any] = attrs.field(factory=dict)
    loose_node_type: bool = True
    """Whether the nearest node type will do where none is the same."""
    weights: bool = False
    """Only models whose weights Kepler may evaluate itself."""
    portable: bool = False
    """Only models that Kepler Core can load."""
