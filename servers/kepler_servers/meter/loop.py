"""The loop of the meter: it collects features, estimates the power and publishes the watts, all in one thread."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import attrs

from kepler_core.errors import MeterError
from kepler_core.messages import one_line, printable
from kepler_core.metering import Observation, Reading
from kepler_servers.meter.publishing import Publisher, Zones
from kepler_servers.meter.status import MeterStatus, ZonePower

log = logging.getLogger(__name__)

FIRST_PERIOD_SECONDS = 0.2
"""Length of the periods before the first reading. It is short so that the first value is published soon after the
start."""


class Collecting(Protocol):
    """Interface of a collector: the loop calls its methods."""

    def collect(self) -> Observation: ...


class Estimating(Protocol):
    """Interface of a power source: the loop uses its methods and properties."""

    @property
    def problems(self) -> Sequence[str]:
        """Reasons why more trusted power sources are not used, one sentence for each source."""

    def reading(self, observation: Observation) -> Reading:
        """Return the power in the period of the observation. Raises `MeterError` if no source has a power."""


class StopSignal:
    """Waits for a given time, or until the process gets SIGTERM or SIGINT."""

    def __init__(self, read_end: int) -> None:
        self._read_end = read_end
        self.received = False

    def wait(self, seconds: float) -> bool:
        """Wait for a number of seconds, or until a signal arrives. Return whether a signal has arrived."""
        if not self.received:
            ready, _, _ = select.select([self._read_end], [], [], max(seconds, 0.0))
            self.received = bool(ready)
        return self.received


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Handle SIGTERM and SIGINT during the `with` block. Only the main thread may use this function.

    A signal writes a byte to a pipe, and raises no exception. So a signal cannot interrupt a write to the outputs.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    wakeup = signal.set_wakeup_fd(write_end)
    try:
        yield StopSignal(read_end)
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read_end)
        os.close(write_end)


@attrs.define
class MeterLoop:
    """Publishes a reading once per interval, and advances the energy counters between the readings."""

    collectors: Collecting
    chain: Estimating
    publisher: Publisher
    zones: Zones
    interval: float
    on_status: Sequence[Callable[[MeterStatus], None]] = ()
    """Functions that the loop calls with the meter's status, once per interval."""
    _started: float = attrs.field(init=False, factory=time.time)
    _reason: str | None = attrs.field(init=False, default="")
    """The reason why there is no estimate; None if there is an estimate; empty before the first period has ended."""
    _source: str | None = attrs.field(init=False, default=None)
    """The power source of the latest reading; None if there is no estimate."""
    _first_period: float = attrs.field(init=False, default=0.0)
    """Start of the first period, by `time.monotonic`."""
    _next_reading: float = attrs.field(init=False, default=0.0)
    _latest_delay: float = attrs.field(init=False, default=0.0)

    def run(self, stop: StopSignal) -> None:
        """Publish readings until a signal arrives. The publisher must be open."""
        self._measure(first=True)
        self._first_period = time.monotonic()
        self._next_reading = self._first_period + min(FIRST_PERIOD_SECONDS, self.interval)
        while True:
            due = min(self._next_reading, self.publisher.next_advance)
            if stop.wait(due - time.monotonic()):
                return
            now = time.monotonic()
            if now < due:
                continue
            if self._reason is None:  # before the first reading, no program waits for values
                self._latest_delay = max(self._latest_delay, now - due)
            if now >= self._next_reading:
                self._measure()
                self._schedule(now)
            else:
                self.publisher.advance(now)

    def _schedule(self, now: float) -> None:
        """Set the time of the next reading. Skip times that have already passed, e.g. while the process was stopped."""
        period = self.interval if self._reason is None else min(FIRST_PERIOD_SECONDS, self.interval)
        if now - self._first_period > self.interval:
            period = self.interval
        self._next_reading += period
        if self._next_reading <= now:
            self._next_reading = now + period

    def _measure(self, *, first: bool = False) -> None:
        """Collect features, estimate the power, and publish the reading.

        The first call only begins the first period.
        """
        begin = time.monotonic()
        observation = self._collect()
        collected = time.monotonic()
        reading: Reading | None = None
        try:
            reading = self.chain.reading(observation)
            problems = (*observation.problems, *self.chain.problems)
            reading = attrs.evolve(self.zones.of(reading), observation=attrs.evolve(observation, problems=problems))
            reason = ""
        except MeterError as error:
            reading, reason = None, str(error)
        except Exception as error:  # a defect of one source must not end the meter
            reading, reason = None, one_line(error)
        estimated = time.monotonic()
        if reading is not None:
            self.publisher.publish(reading, estimated)
            if reading.provenance.slug != self._source:
                log.info("power source %s: %s", printable(reading.provenance.slug), _watts_text(reading))
            self._reason, self._source = None, reading.provenance.slug
        elif not first:
            self.publisher.withdraw(reason, estimated)
            if not self._reason:  # logged once, because the reason may contain a number that changes each time
                log.warning("no estimate: %s", printable(reason))
            self._reason, self._source = reason, None
        self._report(observation, reading, (begin, collected, estimated))

    def _collect(self) -> Observation:
        try:
            return self.collectors.collect()
        except MeterError as error:
            problem = str(error)
        except Exception as error:  # a defect of one collector must not end the meter
            problem = one_line(error)
        return Observation(time=time.time(), seconds=0.0, features={}, problems=(problem,))

    def _report(self, observation: Observation, reading: Reading | None, times: tuple[float, float, float]) -> None:
        begin, collected, estimated = times
        joules = self.publisher.joules(estimated)
        provenance = None if reading is None else reading.provenance
        power = {} if reading is None else reading.power
        status = MeterStatus(
            pid=os.getpid(),
            started=self._started,
            time=time.time(),
            interval=self.interval,
            power={
                component: ZonePower(watts.watts, watts.lower, watts.upper, joules[component])
                for component, watts in power.items()
            },
            reason=self._reason or "",
            kind="" if provenance is None else provenance.kind,
            source="" if provenance is None else provenance.name,
            version="" if provenance is None else provenance.version,
            description="" if provenance is None else provenance.description,
            idle_share="" if reading is None else reading.idle_share,
            flags=[] if reading is None else list(reading.flags),
            features=dict(observation.features),
            problems=[*observation.problems, *self.chain.problems],
            output_problems=dict(self.publisher.problems),
            collect_seconds=collected - begin,
            estimate_seconds=estimated - collected,
            latest_delay_seconds=self._latest_delay,
        )
        for call in self.on_status:
            with contextlib.suppress(OSError):
                call(status)


def _watts_text(reading: Reading) -> str:
    return ", ".join(
        f"{component} {power.watts:.1f} W ({power.lower:.1f} to {power.upper:.1f} W)"
        for component, power in reading.power.items()
    )
