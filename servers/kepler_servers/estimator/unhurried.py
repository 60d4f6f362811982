"""An origin that may take its time, asked without waiting for it long."""

from __future__ import annotations

import threading
from typing import Any

import attrs

from kepler_core.errors import KeplerError
from kepler_core.selection import ModelRequest
from kepler_servers.estimator.origins import NotYetError, Offer, Origin, UnreachableError

PATIENCE_SECONDS = 0.5
"""What takes longer is asked for again later; other origins answer meanwhile."""
MOST_AT_ONCE = 8


@attrs.define(eq=False)
class _Question:
    done: threading.Event = attrs.field(factory=threading.Event)
    offer: Offer | None = None
    error: BaseException | None = None


class Unhurried:
    """Asks another origin in a thread of the question's own, and takes up the answer when it is there."""

    def __init__(self, origin: Origin) -> None:
        self.name = origin.name
        self._origin = origin
        self._asked: dict[Any, _Question] = {}

    def offer(self, request: ModelRequest) -> Offer:
        key = (request.output_type, request.source, request.trainer, request.filter.text, request.metrics)
        question = self._asked.get(key)
        if question is None:
            # those that are answered and that nobody takes up make room
            for old in [old for old, found in self._asked.items() if found.done.is_set()]:
                if len(self._asked) >= MOST_AT_ONCE:
                    del self._asked[old]
            if len(self._asked) >= MOST_AT_ONCE:
                raise UnreachableError(f"{self.name}: busy with other questions")
            question = self._asked[key] = _Question()
            threading.Thread(target=self._ask, args=(question, request), name="origin", daemon=True).start()
        if not question.done.wait(PATIENCE_SECONDS):
            raise NotYetError(f"{self.name}: no answer yet")
        del self._asked[key]
        if question.error is not None:
            raise question.error
        assert question.offer is not None
        return question.offer

    def changed(self) -> bool:
        return False

    def _ask(self, question: _Question, request: ModelRequest) -> None:
        try:
            question.offer = self._origin.offer(request)
        except KeplerError as error:
            question.error = error
        except Exception as error:
            # what somebody else's server sends must not end here
            question.error = UnreachableError(
                f"{self.name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            )
        question.done.set()
