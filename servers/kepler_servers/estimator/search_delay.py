"""The delay after which an estimator searches for a model again.

The delays vary at random, so that the estimators of a cluster do not ask the model server at the same time. They vary
more after a failure: if the model server fails, the searches of all estimators fail at once.
"""

from __future__ import annotations

from random import Random

FIRST_RETRY_SECONDS = 2.0
"""Delay before a failed search is retried. The delay doubles with each failure, up to the refresh interval."""
JITTER = 0.2
"""Random variation of the delay after a successful search, as a fraction of the delay."""
RETRY_JITTER = 0.5
"""Random variation of the delay after a failed search, as a fraction of the delay."""
_MAX_DOUBLINGS = 16


def search_delay(failures: int, refresh_seconds: float, random: Random) -> float:
    """Return the seconds until the next search for a model. `failures` is the number of failed searches in a row."""
    if not failures:
        return varied(refresh_seconds, random)
    delay = min(FIRST_RETRY_SECONDS * 2 ** min(failures - 1, _MAX_DOUBLINGS), refresh_seconds)
    return varied(delay, random, RETRY_JITTER)


def varied(seconds: float, random: Random, variation: float = JITTER) -> float:
    """Return the seconds with a random variation, by default of ± 20 %."""
    return seconds * random.uniform(1 - variation, 1 + variation)
