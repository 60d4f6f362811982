"""A time limit for providers that may answer slowly or never."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import Any

from kepler_core.errors import KeplerError
from kepler_core.messages import one_line
from kepler_core.selection import ModelRequest
from kepler_servers.estimator.model_providers import ModelOffer, ModelProvider, StillRunningError, UnreachableError

OFFER_TIMEOUT_SECONDS = 0.5
"""The cache passes over a provider that takes longer, so that the other providers can answer."""
MAX_CALLS = 8
"""Calls that may run or keep an uncollected result. It bounds the threads of a provider that never answers."""


class TimeLimitedProvider:
    """Calls another provider in the background and waits for its offer at most `OFFER_TIMEOUT_SECONDS`.

    A call that takes longer continues. The next `offer` for the same request waits for that call
    instead of starting another one, and returns its result once it is there.

    Each call has a daemon thread and a `Future` of its own. A `ThreadPoolExecutor` would not do: the
    interpreter joins an executor's threads when it exits, so a provider that never answers would keep
    the process from ending. Daemon threads are not joined.
    """

    def __init__(self, provider: ModelProvider) -> None:
        self.name = provider.name
        self._provider = provider
        self._calls: dict[Any, Future[ModelOffer]] = {}

    def offer(self, request: ModelRequest) -> ModelOffer:
        key = (request.output_type, request.source, request.trainer, request.filter.text, request.metrics)
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = self._start(request)
        if not wait([call], OFFER_TIMEOUT_SECONDS).done:
            raise StillRunningError(f"{self.name}: no answer yet")
        del self._calls[key]
        return call.result()

    def changed(self) -> bool:
        return False

    def _start(self, request: ModelRequest) -> Future[ModelOffer]:
        for key in [key for key, call in self._calls.items() if call.done()]:
            # Results that no later request has collected make room.
            if len(self._calls) >= MAX_CALLS:
                del self._calls[key]
        if len(self._calls) >= MAX_CALLS:
            raise UnreachableError(f"{self.name}: too many unanswered requests")
        call: Future[ModelOffer] = Future()
        threading.Thread(target=self._run, args=(call, request), name="model provider", daemon=True).start()
        return call

    def _run(self, call: Future[ModelOffer], request: ModelRequest) -> None:
        try:
            offer = self._provider.offer(request)
        except KeplerError as error:
            call.set_exception(error)
        except Exception as error:
            # A server may send data that breaks the code that reads it. The call must still end.
            call.set_exception(UnreachableError(f"{self.name}: {one_line(error, 200)}"))
        else:
            call.set_result(offer)
