"""The result of a selection, and the explanation of the choice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import attrs
import numpy as np

from kepler_core.errors import ModelError, NoModelError
from kepler_core.honesty.document import Honesty, read_honesty
from kepler_core.honesty.flags import EXPLANATIONS, flags
from kepler_core.honesty.interval import (
    SAME_MACHINE,
    SAME_TYPE,
    UNKNOWN_SIMILARITY,
    other_type,
    typical_half_width,
)
from kepler_core.selection.scores import ScoreTable
from kepler_core.selection.similarity import SpecLikeness, rounded_down
from kepler_core.store.models import StoredModel

_MAX_STATEMENTS = 1024
"""Maximum number of models whose blocks `honesty` a catalogue caches. A block takes some kilobytes."""


@attrs.frozen
class Drop:
    """A criterion of a request, the number of candidate models that it excluded, and why."""

    criterion: str
    count: int
    why: str

    def explain(self) -> dict[str, Any]:
        """Return how many models the criterion excluded: an entry of `candidates.dropped` in the JSON explanation."""
        return {"by": self.criterion, "count": self.count, "why": self.why}


@attrs.frozen(eq=False)
class NodeTypeMatch:
    """How the node type of the chosen model was found."""

    match: Literal["given", "exact", "nearest", "unknown", "any"]
    """How the node type was chosen.

    - given: the request contains the node type's number
    - exact: the node type's machine is equal to the machine_spec in the request
    - nearest: the node type's machine is the most similar to the machine_spec, but not equal
    - unknown: the machines of the node types are not known
    - any: machines were not compared, e.g. because the request describes no machine
    """
    number: int | None = None
    spec: Mapping[str, Any] = attrs.field(factory=dict)
    likeness: SpecLikeness | None = None

    @property
    def similarity_of_another_type(self) -> float | None:
        """Similarity of the model's machine and the request's machine; None if the machines have the same node type."""
        if self.match == "unknown":
            return UNKNOWN_SIMILARITY
        return self.likeness.similarity if self.match == "nearest" and self.likeness is not None else None

    def explain(self, model: StoredModel) -> dict[str, Any]:
        """Return the member `node_type` of a selection's JSON explanation."""
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


class StatedErrors:
    """The errors in the blocks `honesty` of models. A catalogue caches the blocks of the models that it selects."""

    def __init__(self) -> None:
        self._honesty: dict[StoredModel, Honesty | None] = {}

    def explain(self, model: StoredModel, similarity: float | None) -> dict[str, Any] | None:
        """Return the member `honesty` of a selection's JSON explanation.

        The result is None if the model's metadata have no valid block `honesty` (errors and intervals). `similarity` is
        None if the machine of the request has the model's node type, or if the request describes no machine. The result
        does not depend on features, so only the flags `one_session_only` and `other_machine` can be raised. A machine
        of the model's node type may be the machine of the training, so it gets no flag.
        """
        honesty = self._read(model)
        if honesty is None:
            return None
        twin = honesty.twin
        match = SAME_TYPE if similarity is None else other_type(similarity)
        raised = flags(honesty, SAME_MACHINE if similarity is None else match, outside=False, disagrees=False)
        return {
            "mae": {name: None if errors is None else errors.mae for name, errors in honesty.splits.items()},
            "hardest": honesty.hardest,
            "level": honesty.level,
            "half_width": {c: round(typical_half_width(terms, match), 3) for c, terms in honesty.intervals.items()},
            "flags": {flag: EXPLANATIONS[flag] for flag in raised},
            "twin": None if twin is None else f"{twin.feature_group}/{twin.model_name}",
        }

    def _read(self, model: StoredModel) -> Honesty | None:
        if model in self._honesty:
            return self._honesty[model]
        try:
            honesty = read_honesty(model.metadata)
        except ModelError:
            honesty = None
        if len(self._honesty) < _MAX_STATEMENTS:
            self._honesty[model] = honesty
        return honesty


@attrs.frozen(eq=False)
class Selection:
    """The model that was chosen for a request, and the reasons for the choice."""

    model: StoredModel
    node_type: NodeTypeMatch
    error_key: str
    compared_by: str
    considered: int
    dropped: tuple[Drop, ...]
    runner_up: StoredModel | None
    _stated: StatedErrors
    _scores: ScoreTable
    _row: int
    _runner_up_row: int | None
    stands_in_for: StoredModel | None = None
    """The best model for the request, if this model contains only pickles: `model` is used instead of it."""

    def explain(self) -> dict[str, Any]:
        """Return the JSON explanation of the choice: the member `selection` of answers to the request."""
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
        if (honesty := self._stated.explain(model, self.node_type.similarity_of_another_type)) is not None:
            answer["honesty"] = honesty
        if self.stands_in_for is not None:
            answer["stands_in_for"] = f"{self.stands_in_for.pipeline}/{self.stands_in_for.path}"
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
    """Return the error if no model meets a request, with the number of models that each criterion excluded."""
    return NoModelError(message, {"candidates": _explain_candidates(considered, dropped)})


def _explain_candidates(considered: int, dropped: Iterable[Drop]) -> dict[str, Any]:
    return {"considered": considered, "dropped": [drop.explain() for drop in dropped]}
