"""Answers that are sent again without calling the application.

Routing a request, parsing it and choosing a model cost several times what sending the answer does, and nodes of one
kind send the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from kepler_servers.http.answer import Answer

MAX_ANSWERS = 512
MAX_ENTRY_BYTES = 16 * 1024
"""Largest sum of a request's and its answer's body that is kept."""


class AnswerCache:
    """Answers to the bodies that were posted to one path, valid as long as the data that they come from."""

    def __init__(
        self,
        path: str,
        endpoint: str,
        *,
        data: Callable[[], object],
        observe: Callable[[str, int, float], None],
    ) -> None:
        """`data` returns the current data: when it is another object, all answers are dropped. `observe` counts the
        answers that are sent from here, as those of the endpoint."""
        self._path = path
        self._endpoint = endpoint
        self._data = data
        self._observe = observe
        self._data_of_entries: object = None
        self._entries: dict[bytes, tuple[Answer, Callable[[], None]]] = {}

    def get(self, method: str, path: str, query: str, body: bytes) -> Answer | None:
        """Return the answer to a request; None if there is none for exactly these bytes."""
        started = time.perf_counter()
        if method != "POST" or query or path != self._path or self._data() is not self._data_of_entries:
            return None
        entry = self._entries.get(body)
        if entry is None:
            return None
        answer, sent = entry
        sent()
        self._observe(self._endpoint, answer.status, time.perf_counter() - started)
        return answer

    def keep(self, data: object, body: bytes, answer: Answer, sent: Callable[[], None]) -> None:
        """Keep an answer that was made from this data; `sent` is called each time it is sent from here."""
        if data is not self._data_of_entries or len(self._entries) >= MAX_ANSWERS:
            self._data_of_entries, self._entries = data, {}
        content = answer.body
        if isinstance(content, bytes) and len(body) + len(content) <= MAX_ENTRY_BYTES:
            headers = {**answer.headers, "Content-Length": str(len(content))}
            self._entries[body] = attrs.evolve(answer, headers=headers), sent
