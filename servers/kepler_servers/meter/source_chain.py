"""Select the power source: the meter uses the most trusted source that works."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import attrs

from kepler_core.errors import KeplerError, MeterError
from kepler_core.messages import one_line, printable
from kepler_core.metering import Observation, Reading
from kepler_servers.meter.sources.power_source import PowerSource

log = logging.getLogger(__name__)

GOOD_READINGS = 3
"""The meter switches to a more trusted source after this number of readings from that source, without an error."""
MAX_GOOD_READINGS = 300
"""Upper limit of the number of readings after which the meter switches to a source. The number doubles whenever the
source fails again, so that the meter does not switch to an unreliable source again and again."""
MISSES = 3
"""A source is no longer used after this number of periods without a reading. Before that, its latest reading is
used."""
START_PERIODS = 3
"""At the start, the meter waits for a more trusted source for at most this number of periods."""
_MAX_PROBLEM_CHARACTERS = 300


@attrs.define(eq=False)
class _Link:
    """A power source, with its successes and failures so far."""

    source: PowerSource
    problem: str = ""
    """The reason why the source has no reading; empty if the source has a reading, or needs a further period."""
    good: int = 0
    """Number of readings since the last error."""
    needed: int = GOOD_READINGS
    used: int = 0
    """Number of periods since the meter switched to the source."""


class SourceChain:
    """Reads the most trusted power source that works, and switches between sources while the meter runs.

    Each reading names its source. A switch does not make the energy counters jump, because they are sums of the watts
    over time.
    """

    def __init__(self, sources: Sequence[PowerSource]) -> None:
        """The most trusted of the `sources` is first."""
        self.start_periods = START_PERIODS
        """Number of periods at the start in which the meter waits for a more trusted source."""
        self._links = [_Link(source) for source in sources]
        self._current: int | None = None
        self._latest: Reading | None = None
        self._misses = 0
        self._started = 0

    @property
    def current(self) -> PowerSource | None:
        """The source of the latest reading; None if there is no reading."""
        return None if self._current is None else self._links[self._current].source

    @property
    def is_waiting(self) -> bool:
        """Whether a source needs a further period for its first reading."""
        return self._current is None and any(not link.problem for link in self._links)

    @property
    def problems(self) -> list[str]:
        """The reasons why more trusted sources than the current source are not used, one sentence for each source."""
        better = self._links if self._current is None else self._links[: self._current]
        return [f"{link.source.name}: {link.problem}" for link in better if link.problem]

    def reading(self, observation: Observation) -> Reading:
        """Return the power in a period from the most trusted source that works.

        Raises `MeterError` if no source works.
        """
        self._started += 1
        current = self._current
        better = self._take_better(observation, len(self._links) if current is None else current)
        if better is not None:
            return better
        if current is None:
            raise MeterError("; ".join(self.problems) or "the first period is not over")
        link = self._links[current]
        reading = self._read(link, observation)
        if reading is not None:
            self._misses, self._latest = 0, reading
            link.used += 1
            if link.used >= MAX_GOOD_READINGS:
                link.needed = GOOD_READINGS
            return reading
        return self._after_miss(link, current, observation)

    def close(self) -> None:
        """Close all sources. May be called several times."""
        for link in self._links:
            try:
                link.source.close()
            except Exception:
                log.debug("closing the source %s failed", link.source.name, exc_info=True)

    def _take_better(self, observation: Observation, end: int) -> Reading | None:
        """Read the first `end` sources, which are the most trusted. If one of them can be used now, switch to it and
        return its reading."""
        waiting = False
        taken: tuple[int, Reading] | None = None
        for index, link in enumerate(self._links[:end]):
            reading = self._read(link, observation)
            if reading is None:
                waiting |= not link.problem
                continue
            is_trusted = link.good >= link.needed or self._current is None
            if taken is None and is_trusted:
                taken = index, reading
                if self._current is None:
                    break
        if taken is None or (self._current is None and waiting and self._started <= self.start_periods):
            return None
        self._switch(*taken)
        return taken[1]

    def _after_miss(self, link: _Link, current: int, observation: Observation) -> Reading:
        """Return the latest reading or, if the current source fails too often, the reading of a less trusted source."""
        self._misses += 1
        if self._misses < MISSES and self._latest is not None:
            return attrs.evolve(self._latest, time=observation.time)
        if link.problem:
            link.needed = min(2 * link.needed, MAX_GOOD_READINGS)
        for index, other in enumerate(self._links[current + 1 :], current + 1):
            reading = self._read(other, observation)
            if reading is not None:
                self._switch(index, reading)
                return reading
        log.warning("no power source works: %s", link.problem or "no values in this period")
        self._current = self._latest = None
        raise MeterError("; ".join(self.problems) or "no values in this period")

    def _switch(self, index: int, reading: Reading) -> None:
        before = self.current
        link = self._links[index]
        self._current, self._latest, self._misses, link.used = index, reading, 0, 0
        log.info("watts from %s%s", link.source.name, "" if before is None else f" in place of {before.name}")

    def _read(self, link: _Link, observation: Observation) -> Reading | None:
        try:
            reading = link.source.read(observation)
        except KeplerError as error:
            problem = printable(str(error), _MAX_PROBLEM_CHARACTERS)
        except Exception as error:
            # A defect of one source must not stop the other sources.
            log.debug("the source %s failed", link.source.name, exc_info=True)
            problem = f"a defect: {one_line(error, _MAX_PROBLEM_CHARACTERS)}"
        else:
            link.problem = ""
            link.good += reading is not None
            return reading
        if problem != link.problem:
            log.info("%s: %s", link.source.name, problem)
        link.problem, link.good = problem, 0
        return None
