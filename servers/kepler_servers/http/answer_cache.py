"""A cache of answers, which are sent without calling the application.

Nodes of one kind send the same bytes. Routing such a request, parsing it and choosing a model cost several times
what sending a cached answer does.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from kepler_servers.http.answer import Answer

MAX_ANSWERS = 512
MAX_ENTRY_BYTES = 16 * 1024
"""Largest request and answer, body sizes added, that are cached."""


class AnswerCache:
    """Answers to bodies that were posted to one path."""

    def __init__(
        self,
        path: str,
        endpoint: str,
        *,
        data: Callable[[], object],
        observe: Callable[[str, int, float], None],
    ) -> None:
        """`data` returns the object that the answers are made from: when it returns another object, all cached answers
        are dropped. `observe` counts the cached answers that are sent, under the name of the endpoint."""
        self._path = path
        self._endpoint = endpoint
        self._data = data
        self._observe = observe
        self._data_of_entries: object = None
        self._entries: dict[bytes, tuple[Answer, Callable[[], None]]] = {}

    def get(self, method: str, path: str, query: str, body: bytes) -> Answer | None:
        """Return the cached answer to a request with exactly these bytes, or None."""
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
        """Cache an answer that was made from `data`. `get` calls `sent` each time it returns the answer."""
        if data is not self._data_of_entries or len(self._entries) >= MAX_ANSWERS:
            self._data_of_entries, self._entries = data, {}
        content = answer.body
        if isinstance(content, bytes) and len(body) + len(content) <= MAX_ENTRY_BYTES:
            headers = {**answer.headers, "Content-Length": str(len(content))}
            self._entries[body] = attrs.evolve(answer, headers=headers), sent
