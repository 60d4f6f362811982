"""A time limit for model providers that may answer slowly or never."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import Any

from kepler_core.errors import KeplerError
from kepler_core.messages import one_line
from kepler_core.selection import ModelRequest
from kepler_servers.estimator.model_providers import ModelOffer, ModelProvider, StillRunningError, UnreachableError

OFFER_TIMEOUT_SECONDS = 0.5
"""Time limit in seconds for a provider to offer a model. If it takes longer, the model cache asks the next provider."""
MAX_CALLS = 8
"""Maximum number of calls that are running, or that have ended and whose result is still stored for a request.

The limit bounds the number of threads if a provider never answers.
"""


class TimeLimitedProvider:
    """Calls a model provider in a thread, and waits for its offer at most `OFFER_TIMEOUT_SECONDS`.

    A call that takes longer continues in its thread. The next `offer` for the same request waits for this
    running call instead of starting a new call, and returns the call's result as soon as it has ended.

    Each call has its own daemon thread and its own `Future`. A `ThreadPoolExecutor` cannot be used: the
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
            raise StillRunningError("no answer yet", document=self.name)
        del self._calls[key]
        return call.result()

    def changed(self) -> bool:
        return False

    def _start(self, request: ModelRequest) -> Future[ModelOffer]:
        for key in [key for key, call in self._calls.items() if call.done()]:
            # Drop results that no later request has collected, until there is room for a new call.
            if len(self._calls) >= MAX_CALLS:
                del self._calls[key]
        if len(self._calls) >= MAX_CALLS:
            raise UnreachableError("too many unanswered requests", document=self.name)
        call: Future[ModelOffer] = Future()
        threading.Thread(target=self._run, args=(call, request), name="model provider", daemon=True).start()
        return call

    def _run(self, call: Future[ModelOffer], request: ModelRequest) -> None:
        try:
            offer = self._provider.offer(request)
        except KeplerError as error:
            call.set_exception(error)
        except Exception as error:
            # A model server may send data that makes the reading code raise any exception. The call must end anyway.
            call.set_exception(UnreachableError(one_line(error, 200), document=self.name))
        else:
            call.set_result(offer)
