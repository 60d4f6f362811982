"""Read the recorded decisions of the online trainer.

Several programs write decisions, so any part of a decision may be malformed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec

from kepler_core.documents import Number, Text

MAX_MODELS = 5000
"""Maximum number of candidates, and of observed models, in a decision. A decision with more counts as malformed."""
_Components = dict[Text, dict[Text, Number | None]]


class ModelResult(msgspec.Struct):
    """The errors of one model on the samples on which it was evaluated."""

    instants: int = 0
    components: _Components = {}

    @property
    def worst(self) -> str | None:
        """The component with the largest mean absolute error."""
        maes = {name: mae for name, errors in self.components.items() if (mae := errors.get("mae")) is not None}
        return max(maes, key=lambda name: maes[name], default=None)

    def value(self, key: str, component: str | None = None) -> float | None:
        """Return the number `key`, e.g. "mae", of a component (default: the component with the largest error)."""
        name = self.worst if component is None else component
        return None if name is None else self.components.get(name, {}).get(key)


class Candidate(msgspec.Struct):
    """A new model that a decision compares with the served model at the same path."""

    path: Text
    kind: Text = ""
    better: bool = False
    reason: str = ""
    gain: Number | None = None
    needed: Number | None = None
    served: ModelResult | None = None
    new: ModelResult | None = None


class WatchedComponent(msgspec.Struct):
    """What the online trainer observed of one component of a served model before the retraining."""

    running_error: Number | None = None
    running_error_limit: Number | None = None
    interval_coverage: Number | None = None
    interval_half_width: Number | None = None


class Watched(msgspec.Struct):
    """What the online trainer observed of a served model before the retraining."""

    source: Text = ""
    feature_group: Text = ""
    model: Text = ""
    samples_outside: Number | None = None
    disagreements: Number | None = None
    components: dict[Text, WatchedComponent] = {}


class Decision(msgspec.Struct):
    """A recorded decision."""

    decision: Text = "unknown"
    time: Text | None = None
    trigger: Text | None = None
    version: int | None = None
    reason: str | None = None
    instants: int | None = None
    held_out: int | None = None
    held_out_from: Number | None = None
    held_out_until: Number | None = None
    data_until: Number | None = None
    served_until: Number | None = None
    seconds: Number | None = None
    isolator: Text | None = None
    problem: str | None = None
    trained_on_all: list[Text] = []
    models: Annotated[list[Candidate], msgspec.Meta(max_length=MAX_MODELS)] = []
    observed: Annotated[list[Watched], msgspec.Meta(max_length=MAX_MODELS)] = []
    law_changes: list[dict[str, Any]] = []


def read_decision(document: Mapping[str, Any]) -> Decision | None:
    """Return a decision; None if it is malformed. A number that is not finite counts as unknown."""
    try:
        return msgspec.json.decode(msgspec.json.encode(document), type=Decision)
    except msgspec.ValidationError:
        return None


def read_decisions(documents: Sequence[Mapping[str, Any]]) -> list[Decision]:
    """Return the decisions that are well-formed, in their order."""
    return [decision for document in documents if (decision := read_decision(document)) is not None]
