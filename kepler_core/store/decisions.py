"""The records of what the online trainer decided about a pipeline, one JSON file for each decision."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from kepler_core.documents import DocumentError, decode_object

DECISIONS = ".decisions"
"""Folder of a store that holds the decisions of each pipeline."""
MAX_DECISIONS = 500
"""Maximum number of decisions that a store keeps for each pipeline. Older decisions are removed."""

_FILE_NAME = re.compile(r"[0-9]{14}-[0-9a-f]{8}\.json")


def decision_name() -> str:
    """Return a new name for the file of a decision made now. Sorting such names sorts the decisions by time."""
    return f"{time.time_ns() // 1_000_000:014d}-{uuid.uuid4().hex[:8]}.json"


def is_decision(name: str) -> bool:
    """Return whether a file name has the form that `decision_name` returns."""
    return _FILE_NAME.fullmatch(name) is not None


def read_decision(content: bytes) -> dict[str, Any] | None:
    """Return the decision in a file's content; None if the content is damaged."""
    try:
        return decode_object(content)
    except DocumentError:
        return None
