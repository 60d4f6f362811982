"""Log lines about what clients send: one line each, each once, and not more than a disk can take."""

from __future__ import annotations

import logging
import time

_MOST_KNOWN = 200
_MOST_A_MINUTE = 30
_LONGEST = 500


class RateLimitedLog:
    """Logs a message the first time that it comes, and only so many different ones in a minute."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._known: set[str] = set()
        self._minute = 0.0
        self._said = 0
        self._unsaid = 0

    def say(self, message: str, level: int = logging.WARNING) -> None:
        """Log it, without line ends or other control characters."""
        if message in self._known:
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known.add(message)
        now = time.monotonic()
        if now - self._minute >= 60.0:
            if self._unsaid:
                self._log.warning("%d other messages were not logged", self._unsaid)
            self._minute, self._said, self._unsaid = now, 0, 0
        if self._said >= _MOST_A_MINUTE:
            self._unsaid += 1
            return
        self._said += 1
        self._log.log(level, "%s", printable(message))


def printable(text: str) -> str:
    """A text on one line, cut where it is long."""
    shown = "".join(c if c.isprintable() else " " for c in text[:_LONGEST])
    return shown if len(text) <= _LONGEST else shown + "…"
