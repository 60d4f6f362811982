"""A log for messages that clients cause: each message once, with a limit per minute."""

from __future__ import annotations

import logging
import time

from kepler_core.messages import printable

MAX_REMEMBERED_MESSAGES = 200
"""Beyond this number of different messages the memory is cleared, and messages may be logged again."""
MAX_MESSAGES_PER_MINUTE = 30
"""A hostile client could otherwise fill the disk with different messages."""


class RateLimitedLog:
    """Logs each message only the first time, and at most `MAX_MESSAGES_PER_MINUTE` messages."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._remembered: set[str] = set()
        self._minute_started = 0.0
        self._logged = 0
        self._suppressed = 0

    def log(self, message: str, level: int = logging.WARNING) -> None:
        """Log a message as one printable line, unless it was logged before or the limit is reached."""
        if message in self._remembered:
            return
        if len(self._remembered) >= MAX_REMEMBERED_MESSAGES:
            self._remembered.clear()
        self._remembered.add(message)
        now = time.monotonic()
        if now - self._minute_started >= 60.0:
            if self._suppressed:
                self._logger.warning("%d other messages were not logged", self._suppressed)
            self._minute_started, self._logged, self._suppressed = now, 0, 0
        if self._logged >= MAX_MESSAGES_PER_MINUTE:
            self._suppressed += 1
            return
        self._logged += 1
        self._logger.log(level, "%s", printable(message))
