"""A cache of answers. The server sends a cached answer without calling the application.

Nodes with the same kind of machine send requests with the same bytes. Sending a cached answer is several times
faster than finding the route, parsing the request and selecting a model again.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs

from kepler_servers.http.answer import Answer

MAX_ANSWERS = 512
MAX_ENTRY_BYTES = 16 * 1024
"""Maximum size of a cache entry: the bytes of the request's body plus the bytes of the answer's body."""


class AnswerCache:
    """Cache of the answers to POST requests to one path. The key of an answer is the body of the request."""

    def __init__(
        self,
        path: str,
        endpoint: str,
        *,
        data: Callable[[], object],
        observe: Callable[[str, int, float], None],
    ) -> None:
        """`data` returns the object that the answers are made from. When it returns a different object, all cached
        answers are dropped. For each cached answer that is sent, the cache calls `observe` with the endpoint, the
        status and the duration in seconds."""
        self._path = path
        self._endpoint = endpoint
        self._data = data
        self._observe = observe
        self._data_of_entries: object = None
        self._entries: dict[bytes, tuple[Answer, Callable[[], None]]] = {}

    def get(self, method: str, path: str, query: str, body: bytes) -> Answer | None:
        """Return the cached answer to a request with exactly this body; None if there is no such answer."""
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
        """Cache the answer to a request with this body. `data` is the object that the answer was made from.

        `get` calls the function `sent` each time it returns the answer.
        """
        if data is not self._data_of_entries or len(self._entries) >= MAX_ANSWERS:
            self._data_of_entries, self._entries = data, {}
        content = answer.body
        if isinstance(content, bytes) and len(body) + len(content) <= MAX_ENTRY_BYTES:
            headers = {**answer.headers, "Content-Length": str(len(content))}
            self._entries[body] = attrs.evolve(answer, headers=headers), sent
