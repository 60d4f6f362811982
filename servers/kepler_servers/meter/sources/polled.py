"""Power sources that read a management controller (BMC). They are slow, so a thread sends the requests.

A management controller measures the power supplies. So its watts are the power of the whole machine (the component
`platform`), including the losses of the power supplies. It answers within 10 ms to 10 s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import attrs

from kepler_core.errors import KeplerError, MeterError
from kepler_core.messages import one_line
from kepler_core.metering import Observation, Reading
from kepler_servers.meter.sources.measured import measured_reading
from kepler_servers.meter.sources.power_source import Kind
from kepler_servers.meter.sources.sensor_check import SensorCheck

POLL_SECONDS = 5.0
"""Default interval between two requests. Most management controllers measure at most once per second."""
STALE_POLLS = 3.0
"""A value is no longer used if it is older than this number of intervals."""
FIRST_ANSWER_SECONDS = 10.0
"""Time limit for the first answer. If there is no answer in this time, the source counts as failed."""


class Asking(Protocol):
    """A connection to a management controller. Its methods are called by one thread only."""

    def watts(self, stop: threading.Event) -> float:
        """Return the watts of the whole machine. Returns early if `stop` is set. Raises `MeterError`."""

    def close(self) -> None:
        """Close the files or connections that `watts` has opened. May be called several times."""


@attrs.frozen
class _Answer:
    watts: float | None
    problem: str
    at: float


class PolledSource:
    """Power source with the watts of the latest answer. A thread sends the requests, so `read` never waits.

    If the management controller does not answer, the latest watts stay valid for `STALE_POLLS` intervals. After that,
    `read` raises `MeterError`.
    """

    kind: Kind = "measured"

    def __init__(
        self,
        name: str,
        description: str,
        open_controller: Callable[[], Asking],
        *,
        interval: float = POLL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`open_controller` is called in the thread that sends the requests. `clock` returns monotonic seconds."""
        self.name = name
        self._description = description
        self._open_controller = open_controller
        self._interval = interval
        self._clock = clock
        self._check = SensorCheck(name, "platform")
        self._measured: _Answer | None = None
        self._problem = ""
        self._started_at = 0.0
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def read(self, observation: Observation) -> Reading | None:
        now = self._clock()
        if self._thread is None:
            self._started_at = now
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._poll, args=(self._stop,), name=f"meter-{self.name}")
            self._thread.daemon = True
            self._thread.start()
        answer, problem = self._measured, self._problem
        if answer is None or answer.watts is None:
            if problem:
                raise MeterError(problem)
            if now - self._started_at > FIRST_ANSWER_SECONDS:
                raise MeterError(f"no answer for {now - self._started_at:.0f} s")
            return None
        age = now - answer.at
        if age > STALE_POLLS * self._interval:
            raise MeterError(f"the latest value is {age:.0f} s old{': ' if problem else ''}{problem}")
        watts = self._check.check(answer.watts, now, observation.load)
        return measured_reading(observation, {"platform": watts}, self.name, self._description, [], waiting=False)

    def close(self) -> None:
        """Stop the thread without waiting for it. The thread ends after its present request."""
        self._stop.set()
        self._thread, self._measured, self._problem = None, None, ""

    def _poll(self, stop: threading.Event) -> None:
        controller: Asking | None = None
        while not stop.is_set():
            begin = self._clock()
            try:
                if controller is None:
                    controller = self._open_controller()
                answer = _Answer(controller.watts(stop), "", self._clock())
            except KeplerError as error:
                answer = _Answer(None, str(error), begin)
            except Exception as error:  # a defect of one source must not end the thread without a reason
                answer = _Answer(None, f"a defect: {one_line(error)}", begin)
            if answer.problem and controller is not None:
                controller.close()
                controller = None
            if not stop.is_set():
                self._problem = answer.problem
                if answer.watts is not None:
                    self._measured = answer
            stop.wait(max(self._interval - (self._clock() - begin), 0.1))
        if controller is not None:
            controller.close()
