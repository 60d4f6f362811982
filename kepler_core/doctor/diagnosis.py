"""What a rule found in the metrics of a Kepler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs

from kepler_core.pairs.host_node import HostNode

Severity = Literal["error", "warning", "note"]
"""error: the numbers are wrong or missing. warning: numbers will be misread. note: Kepler Core corrects it."""


@attrs.frozen
class Diagnosis:
    """Something that is wrong with a Kepler, or easily misread."""

    rule: str
    severity: Severity
    node: str
    """The node that the finding is about; "" if the recording names none."""
    seen: str
    """What was seen, in one sentence."""
    advice: str
    """What to do, in one sentence."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as they are printed as JSON."""
        return attrs.asdict(self)


@attrs.frozen
class Found:
    """The result of a rule for one node."""

    seen: str
    advice: str


@attrs.frozen
class Rule:
    """A rule that is applied to each node."""

    name: str
    severity: Severity
    check: Callable[[HostNode], Found | None]
    """Returns what was found on a node; None if nothing is wrong."""
