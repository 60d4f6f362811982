"""Flags: short names of the reasons to doubt an estimate. Each flag has a sentence for users."""

from __future__ import annotations

from typing import Literal

from kepler_core.honesty.document import Honesty
from kepler_core.honesty.interval import MachineMatch

Flag = Literal["one_session_only", "extrapolating", "disagreement", "other_machine"]

EXPLANATIONS: dict[str, str] = {
    "one_session_only": "The model was trained on one recording: its error on another day is unknown.",
    "extrapolating": "A feature is outside the range that the model was trained on.",
    "disagreement": "A model with fewer features predicts a different power. Its prediction is used instead.",
    "other_machine": "The model was trained on another machine.",
}
"""Maps each flag to a sentence for users."""


ONE_RECORDING = "One recording: the error on another day is unknown. Add a recording of another day to measure it."
"""Sentence for users who train from a single recording."""


def flags(honesty: Honesty | None, match: MachineMatch, *, outside: bool, disagrees: bool) -> list[Flag]:
    """Return the flags of an estimate.

    `honesty` is the block `honesty` (errors and intervals) of the model's metadata. If it is None, the recordings and
    machines of the training are not known, so no flag about them is raised. `outside` tells whether a row is outside
    the range of the training data. `disagrees` tells whether the predictions of the model and of its twin differ by
    more than the limit.
    """
    raised: dict[Flag, bool] = {
        "one_session_only": honesty is not None and honesty.splits.get("recordings") is None,
        "extrapolating": outside,
        "disagreement": disagrees,
        "other_machine": honesty is not None and not match.trained,
    }
    return [flag for flag, is_raised in raised.items() if is_raised]
