"""The records of what the online trainer decided about a pipeline, one JSON file for each decision."""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kepler_core.documents import DocumentError, decode_object

DECISIONS = ".decisions"
"""Folder of a store that holds the decisions of each pipeline."""
MAX_DECISIONS = 500
"""Maximum number of decisions that a store keeps for each pipeline. Older decisions are removed."""

MAX_PAGES = 20
"""Maximum number of decisions whose HTML page a store keeps for each pipeline. A page takes up to 1 MB."""

_FILE_NAME = re.compile(r"[0-9]{14}-[0-9a-f]{8}\.json")


class _Clock:
    """The time in milliseconds. No two readings in this process are equal, so its decisions stay in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest = 0

    def read(self) -> int:
        """Return the Unix time in milliseconds, or one more than the latest reading if that is later."""
        with self._lock:
            self._latest = max(time.time_ns() // 1_000_000, self._latest + 1)
            return self._latest


_CLOCK = _Clock()


def decision_name() -> str:
    """Return a name for the file of a new decision. The name contains the time, so sorted names are sorted by time."""
    return f"{_CLOCK.read():014d}-{uuid.uuid4().hex[:8]}.json"


def is_decision(name: str) -> bool:
    """Return whether a file name has the form that `decision_name` returns."""
    return _FILE_NAME.fullmatch(name) is not None


def decision_files(pipeline: str, decision: Mapping[str, Any], page: bytes | None) -> dict[str, bytes]:
    """Return the files that record a new decision, as a dictionary from name to content.

    `page` is an HTML page about the decision. If it is not None, the page is the first of the files, and the key `page`
    with the path of the page below the store is added to the decision.
    """
    name = decision_name()
    if page is None:
        return {name: msgspec.json.encode(decision)}
    page_name = f"{name.removesuffix('.json')}.html"
    recorded = {**decision, "page": f"{DECISIONS}/{pipeline}/{page_name}"}
    return {page_name: page, name: msgspec.json.encode(recorded)}


def outdated(names: Iterable[str]) -> list[str]:
    """Return the names of decisions and pages that are too old to be kept. `names` are the names of all files."""
    decisions, pages = [], []
    for name in sorted(names):
        if is_decision(name):
            decisions.append(name)
        elif is_decision(f"{name.removesuffix('.html')}.json"):
            pages.append(name)
    return [*decisions[:-MAX_DECISIONS], *pages[:-MAX_PAGES]]


def read_decision(content: bytes) -> dict[str, Any] | None:
    """Return the decision in a file's content; None if the content is damaged."""
    try:
        return decode_object(content)
    except DocumentError:
        return None
