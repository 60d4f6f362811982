"""Compare two pipelines, or two versions of one pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import msgspec

from kepler_core.comparison.changes import Change, Recordings, changes_of, recordings_of, same_data
from kepler_core.comparison.choice import Choice, choices_of
from kepler_core.comparison.pairs import Pair, pairs_of
from kepler_core.comparison.sides import Side
from kepler_core.comparison.words import summary


@attrs.frozen(eq=False)
class Comparison:
    """The result of a comparison. The hook `kepler_pipelines_compared` passes it to listeners."""

    first: Side
    second: Side
    pairs: Sequence[Pair]
    choices: Sequence[Choice]
    changes: Sequence[Change]
    recordings: Recordings
    same_data: bool | None
    """Whether the errors of both sides were measured on the same recordings; None if a side does not state it."""
    summary: Sequence[str]
    """Sentences that summarise the comparison."""

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison as a JSON object."""
        document: dict[str, Any] = {
            "A": self.first.as_dict(),
            "B": self.second.as_dict(),
            "summary": list(self.summary),
            "same_data": self.same_data,
            "models": [pair.as_dict() for pair in self.pairs],
            "select": [choice.as_dict() for choice in self.choices],
            "changes": self.changes,
            "recordings": self.recordings,
        }
        return dict(msgspec.to_builtins(document))


def compare_sides(first: Side, second: Side) -> Comparison:
    """Compare two versions of pipelines. Both pipelines must have the same target."""
    pairs, choices = pairs_of(first, second), choices_of(first, second)
    same = same_data(first, second)
    return Comparison(
        first,
        second,
        pairs,
        choices,
        changes_of(first, second),
        recordings_of(first, second),
        same,
        summary(first, second, pairs, choices, same),
    )
