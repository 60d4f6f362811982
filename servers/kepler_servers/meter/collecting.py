"""Merge the features of several collectors (plugins that measure the features of this machine).

A collector that fails does not stop the others.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import attrs

from kepler_core.errors import KeplerError
from kepler_core.messages import one_line, printable
from kepler_core.metering import Collector, Observation

log = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""Interval at which the meter tries again to open a collector that is not open."""
_MAX_PROBLEM_CHARACTERS = 300


@attrs.define(eq=False)
class _Member:
    name: str
    collector: Collector
    problem: str = "not opened yet"
    """The reason why the collector is not open; empty if it is open."""
    retry_at: float = 0.0


class CollectorSet:
    """Merges the observations of several collectors.

    If several collectors measure the same feature, the value of the first collector is used. The length of the period
    comes from the first collector that has features.
    """

    def __init__(self, collectors: Mapping[str, Collector], *, clock: Callable[[], float] = time.monotonic) -> None:
        """`collectors` maps names to collectors, in order of preference. `clock` returns monotonic seconds."""
        self._members = [_Member(name, collector) for name, collector in collectors.items()]
        self._clock = clock
        self._collected_at: float | None = None

    @property
    def names(self) -> Sequence[str]:
        """Names of the collectors that are open."""
        return [member.name for member in self._members if not member.problem]

    @property
    def problems(self) -> dict[str, str]:
        """The reasons why collectors are not open, by the name of the collector."""
        return {member.name: member.problem for member in self._members if member.problem}

    def open(self) -> None:
        """Open the collectors. If some cannot be opened, `problems` then has the reasons."""
        for member in self._members:
            self._open(member)

    def collect(self) -> Observation:
        """Return an observation with the features that all collectors measured since the previous call.

        `Observation.problems` names the collectors that cannot be opened, or that fail. If all collectors fail, the
        observation has no features. Power sources that measure power do not need features.
        """
        now, before = self._clock(), self._collected_at
        self._collected_at = now
        observations: list[Observation] = []
        problems: list[str] = []
        for member in self._members:
            if member.problem and self._clock() >= member.retry_at:
                self._open(member)
            if member.problem:
                problems.append(f"{member.name}: {member.problem}")
                continue
            try:
                observations.append(member.collector.collect())
            except Exception as error:
                # A defect of one plugin must not stop the other collectors.
                self._close(member, _text(member.name, error))
                problems.append(f"{member.name}: {member.problem}")
        if not observations:
            return Observation(time.time(), 0.0 if before is None else now - before, {}, problems=tuple(problems))
        return merged(observations, problems)

    def close(self) -> None:
        """Close all collectors. May be called several times."""
        for member in self._members:
            self._close(member, "closed")

    def _open(self, member: _Member) -> None:
        try:
            member.collector.open()
        except Exception as error:
            # A defect of one plugin must not stop the other collectors.
            self._close(member, _text(member.name, error))
        else:
            member.problem = ""

    def _close(self, member: _Member, problem: str) -> None:
        member.problem, member.retry_at = problem, self._clock() + RETRY_SECONDS
        try:
            member.collector.close()
        except Exception:
            log.debug("closing the collector %s failed", member.name, exc_info=True)


def merged(observations: Sequence[Observation], problems: Sequence[str] = ()) -> Observation:
    """Merge several observations of one period. If several observations have a feature, the first value is used."""
    features: dict[str, float] = {}
    for observation in observations:
        for feature, value in observation.features.items():
            features.setdefault(feature, value)
    first = next((o for o in observations if o.features), observations[0])
    return Observation(
        max(observation.time for observation in observations),
        first.seconds,
        features,
        next((o.load for o in observations if o.load is not None), None),
        next((o.steal for o in observations if o.steal is not None), None),
        (*(problem for observation in observations for problem in observation.problems), *problems),
    )


def _text(name: str, error: Exception) -> str:
    if isinstance(error, KeplerError):
        return printable(str(error), _MAX_PROBLEM_CHARACTERS)
    log.debug("the collector %s failed", name, exc_info=True)
    return f"a defect: {one_line(error, _MAX_PROBLEM_CHARACTERS)}"
