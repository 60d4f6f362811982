"""The rules of `kepler-model doctor`, and the problems that they find in Kepler's metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs

from kepler_core.pairs.host_node import HostNode

Severity = Literal["error", "warning", "note"]
"""error: numbers are wrong or missing. warning: users will misread numbers. note: Kepler Core corrects the numbers."""


@attrs.frozen
class Diagnosis:
    """A problem of an installation of Kepler: numbers that are wrong, missing or easily misread."""

    rule: str
    severity: Severity
    node: str
    """Name of the node that has the problem; "" if the recording does not name it."""
    seen: str
    """What the rule found in the metrics, in one sentence."""
    advice: str
    """What the user can do, in one sentence."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields in the form that `kepler-model doctor --json` prints."""
        return attrs.asdict(self)


@attrs.frozen
class Found:
    """A problem that a rule found on one node: what the rule saw, and what the user can do."""

    seen: str
    advice: str


@attrs.frozen
class Rule:
    """A rule that is applied to each node."""

    name: str
    severity: Severity
    check: Callable[[HostNode], Found | None]
    """Returns the problem of a node; None if the rule finds no problem."""
