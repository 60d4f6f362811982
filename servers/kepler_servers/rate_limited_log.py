"""A log for messages that clients cause. It logs each message once, and a limited number of messages per minute."""

from __future__ import annotations

import logging
import time

from kepler_core.messages import printable

MAX_REMEMBERED_MESSAGES = 200
"""Maximum number of different messages that the log remembers. When this number is reached, the log forgets all
messages, so each of them may be logged again."""
MAX_MESSAGES_PER_MINUTE = 30
"""Maximum number of messages logged per minute, because a hostile client could fill the disk with messages."""


class RateLimitedLog:
    """Logs each message only once, and at most `MAX_MESSAGES_PER_MINUTE` messages per minute."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._remembered: set[int] = set()
        """Hashes of the messages that were logged; the messages themselves may be long."""
        self._minute_started = 0.0
        self._logged = 0
        self._suppressed = 0

    def log(self, message: str, level: int = logging.WARNING) -> None:
        """Log a message as one printable line, unless it was logged before or the limit is reached."""
        if (digest := hash(message)) in self._remembered:
            return
        if len(self._remembered) >= MAX_REMEMBERED_MESSAGES:
            self._remembered.clear()
        self._remembered.add(digest)
        now = time.monotonic()
        if now - self._minute_started >= 60.0:
            if self._suppressed:
                self._logger.warning(
                    "%d more messages were not logged, because too many came within a minute", self._suppressed
                )
            self._minute_started, self._logged, self._suppressed = now, 0, 0
        if self._logged >= MAX_MESSAGES_PER_MINUTE:
            self._suppressed += 1
            return
        self._logged += 1
        self._logger.log(level, "%s", printable(message))
