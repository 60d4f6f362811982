"""The models that the command `select` would take from side A alone, from side B alone, and from both sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.comparison.sides import Side, SideModel, SideName
from kepler_core.selection.catalogue import ERROR_KEY
from kepler_core.selection.ranking import rank_by_error
from kepler_core.selection.scores import score_table

ALL_FEATURES = "all"
"""Value of `Choice.features` if the client measures every feature."""


@attrs.frozen(eq=False)
class Choice:
    """The models that the command `select` would choose for one energy source, output type and set of features."""

    source: str
    output_type: str
    features: str
    """`ALL_FEATURES`, or the feature group whose features the client measures."""
    first: SideModel | None
    """The model that is chosen if only the models of side A exist; None if no model of side A can be used."""
    second: SideModel | None
    model: SideModel
    """The model that is chosen from the models of both sides. Here, a split counts only if it was measured on both
    sides. So the model may be neither `first` nor `second`."""
    taken: SideName
    """The side of `model`."""
    compared_by: str
    """The errors by which `model` was chosen, in the words of the command `select`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the chosen models as a JSON object."""
        return {
            "source": self.source,
            "output_type": self.output_type,
            "features": self.features,
            "A": None if self.first is None else self.first.stored.path,
            "B": None if self.second is None else self.second.stored.path,
            "taken": self.taken,
            "model": self.model.stored.path,
            "compared_by": self.compared_by,
        }


def choices_of(one: Side, two: Side) -> list[Choice]:
    """Return the models that `select` would choose for each pair of energy source and output type.

    A client may measure all features, or only the features of one group: each case has its own choice. Only models that
    Kepler Core can load are considered. Models of all node types are compared with each other, as if the client's
    machine were not known.
    """
    choices = []
    keys = sorted({model.key[:2] for side in (one, two) for model in side.models})
    for source, output_type in keys:
        sides = [
            [model for model in side.models if model.key[:2] == (source, output_type) and model.stored.loadable]
            for side in (one, two)
        ]
        groups = {model.stored.feature_group: set(model.stored.features) for side in sides for model in side}
        for name, features in [(ALL_FEATURES, None), *sorted(groups.items())]:
            usable = [
                [model for model in side if features is None or features.issuperset(model.stored.features)]
                for side in sides
            ]
            if any(usable):
                choices.append(_choice((source, output_type, name), *usable))
    return choices


def _choice(case: tuple[str, str, str], first: Sequence[SideModel], second: Sequence[SideModel]) -> Choice:
    both = [*first, *second]
    best, compared_by = _best(both)
    taken: SideName = "A" if any(best is model for model in first) else "B"
    alone_first, alone_second = (_best(models)[0] if models else None for models in (first, second))
    return Choice(*case, alone_first, alone_second, best, taken, compared_by)


def _best(models: Iterable[SideModel]) -> tuple[SideModel, str]:
    candidates = list(models)
    scores = score_table([model.stored for model in candidates])
    ranking = rank_by_error(np.arange(len(candidates)), scores.column(ERROR_KEY), ERROR_KEY, scores)
    return candidates[ranking.best], ranking.compared_by
