"""The result of a selection, and its explanation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs
import numpy as np

from kepler_core.errors import NoModelError
from kepler_core.selection.scores import ScoreTable
from kepler_core.selection.similarity import SpecLikeness, rounded_down
from kepler_core.store.models import StoredModel


@attrs.frozen
class Drop:
    """The number of candidates that one criterion excluded."""

    criterion: str
    count: int
    why: str

    def explain(self) -> dict[str, Any]:
        """Return the entry of `candidates.dropped` in answers."""
        return {"by": self.criterion, "count": self.count, "why": self.why}


@attrs.frozen(eq=False)
class NodeTypeMatch:
    """How the node type of the chosen model was found."""

    match: Literal["given", "exact", "nearest", "unknown", "any"]
    """given: by the request's number. exact, nearest: by the request's machine_spec. unknown: the machine
    of the models is not known. any: the request names no machine."""
    number: int | None = None
    spec: Mapping[str, Any] = attrs.field(factory=dict)
    likeness: SpecLikeness | None = None

    def explain(self, model: StoredModel) -> dict[str, Any]:
        """Return the `node_type` member of answers."""
        answer: dict[str, Any] = {
            "match": self.match,
            "number": model.node_type,
            "machine_spec": dict(model.machine_spec),
        }
        if self.likeness is not None:
            answer["similarity"] = rounded_down(self.likeness.similarity, 6)
            answer["looseness"] = round(self.likeness.looseness, 6)
            answer["uncertainty"] = round(self.likeness.uncertainty, 6)
            answer["attributes"] = dict(self.likeness.attributes)
        return answer


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
    _scores: ScoreTable
    _row: int
    _runner_up_row: int | None

    def explain(self) -> dict[str, Any]:
        """Return the `selection` member of answers."""
        model = self.model
        answer: dict[str, Any] = {
            "pipeline": model.pipeline,
            "version": model.snapshot.version,
            "model": model.path,
            "trainer": model.trainer,
            "features": list(model.features),
            "error": {self.error_key: self._error(self._row), "compared_by": self.compared_by},
            "node_type": self.node_type.explain(model),
            "candidates": _explain_candidates(self.considered, self.dropped),
        }
        if self.runner_up is not None and self._runner_up_row is not None:
            answer["runner_up"] = {
                "model": f"{self.runner_up.pipeline}/{self.runner_up.path}",
                self.error_key: self._error(self._runner_up_row),
            }
        return answer

    def _error(self, row: int) -> float | None:
        value = float(self._scores.column(self.error_key)[row])
        return None if np.isnan(value) else value


def no_model(message: str, considered: int, dropped: Iterable[Drop]) -> NoModelError:
    """Return the error for a request that no model fits. Its explanation lists what each criterion excluded."""
    return NoModelError(message, {"candidates": _explain_candidates(considered, dropped)})


def _explain_candidates(considered: int, dropped: Iterable[Drop]) -> dict[str, Any]:
    return {"considered": considered, "dropped": [drop.explain() for drop in dropped]}
