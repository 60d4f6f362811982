"""Why a model was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from kepler_core.store.models import StoredModel

if TYPE_CHECKING:
    from kepler_core.selection.catalogue import SpecLikeness
    from kepler_core.selection.scores import FigureTable


@attrs.frozen
class Drop:
    """Candidates that a criterion took out."""

    criterion: str
    count: int
    why: str

    def explain(self) -> dict[str, Any]:
        return {"by": self.criterion, "count": self.count, "why": self.why}


def rounded_down(similarity: float, digits: int) -> float:
    """A similarity for people: what is not the same must not look like 1."""
    steps: int = 10**digits
    return math.floor(similarity * steps) / steps


@attrs.frozen(eq=False)
class NodeTypeMatch:
    """How a node type was found."""

    match: Literal["given", "exact", "nearest", "unknown", "any"]
    """given: by number; exact, nearest: by the machine's spec; unknown: the models' machine is not known;
    any: nobody said what machine asks."""
    number: int | None = None
    spec: Mapping[str, Any] = attrs.field(factory=dict)
    likeness: SpecLikeness | None = None

    def explain(self, model: StoredModel) -> dict[str, Any]:
        found: dict[str, Any] = {
            "match": self.match,
            "number": model.node_type,
            "machine_spec": dict(model.machine_spec),
        }
        if self.likeness is not None:
            found["similarity"] = rounded_down(self.likeness.similarity, 6)
            found["looseness"] = round(self.likeness.looseness, 6)
            found["uncertainty"] = round(self.likeness.uncertainty, 6)
            found["attributes"] = dict(self.likeness.attributes)
        return found


@attrs.frozen(eq=False)
class Selection:
    """A chosen model, and why it was chosen."""

    model: StoredModel
    node_type: NodeTypeMatch
    error_key: str
    compared_by: str
    considered: int
    dropped: tuple[Drop, ...]
    runner_up: StoredModel | None
    _figures: FigureTable
    _row: int
    _runner_up_row: int | None

    def explain(self) -> dict[str, Any]:
        """The `selection` member of answers."""
        model = self.model
        found: dict[str, Any] = {
            "pipeline": model.pipeline,
            "version": model.snapshot.version,
            "model": model.path,
            "trainer": model.trainer,
            "features": list(model.features),
            "error": {self.error_key: self._error(self._row), "compared_by": self.compared_by},
            "node_type": self.node_type.explain(model),
            "candidates": {"considered": self.considered, "dropped": [drop.explain() for drop in self.dropped]},
        }
        if self.runner_up is not None and self._runner_up_row is not None:
            found["runner_up"] = {
                "model": f"{self.runner_up.pipeline}/{self.runner_up.path}",
                self.error_key: self._error(self._runner_up_row),
            }
        return found

    def _error(self, row: int) -> float | None:
        value = float(self._figures.column(self.error_key)[row])
        return None if np.isnan(value) else value
