"""Tests of the meter's loop with scripted power sources and real outputs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.process import wait_for
from support.readings import MEASURED, ScriptedSource, reading, zones_of

from kepler_core.errors import CollectorError, MeterError
from kepler_core.metering import Observation, Reading
from kepler_plugins.outputs.powercap import PowercapOutput
from kepler_servers.meter.loop import Collecting, MeterLoop, StopSignal, stop_signal
from kepler_servers.meter.publishing import Publisher, Zones
from kepler_servers.meter.status import MeterStatus


class Collectors:
    """Collectors that report a load of 0.5 and one problem."""

    def collect(self) -> Observation:
        return Observation(time.time(), 0.1, {"cpu_user_ms": 500.0}, load=0.5, problems=("perf is missing",))


class BrokenCollectors:
    """Collectors that raise an error in place of an observation."""

    def collect(self) -> Observation:
        raise CollectorError("there is no /proc/stat")


class Running:
    """A meter loop that runs in a thread, and the states that the loop has reported."""

    def __init__(
        self, tmp_path: Path, read: Callable[[Observation], Reading], collectors: Collecting, interval: float
    ) -> None:
        self.tree = tmp_path / "tree"
        self.states: list[MeterStatus] = []
        publisher = Publisher({"powercap": PowercapOutput(str(self.tree))}, valid_seconds=5.0)
        publisher.open()
        self.publisher = publisher
        self.loop = MeterLoop(collectors, ScriptedSource(read), publisher, Zones(), interval, [self.states.append])

    def next_state(self, condition: Callable[[MeterStatus], bool] = lambda _: True) -> MeterStatus:
        """Wait until the loop reports a state for which `condition` is true, and return the state."""
        seen = len(self.states)
        wait_for(lambda: any(map(condition, self.states[seen:])), "the meter does not get into this state")
        return next(state for state in self.states[seen:] if condition(state))


@contextmanager
def running(
    tmp_path: Path,
    read: Callable[[Observation], Reading],
    collectors: Collecting | None = None,
    interval: float = 0.2,
) -> Iterator[Running]:
    run = Running(tmp_path, read, collectors or Collectors(), interval)
    read_end, write_end = os.pipe()
    thread = threading.Thread(target=run.loop.run, args=(StopSignal(read_end),))
    thread.start()
    try:
        yield run
    finally:
        os.write(write_end, b"x")
        thread.join()
        run.publisher.close()
        os.close(read_end)
        os.close(write_end)


def counters(tree: Path) -> list[Path]:
    return list(tree.rglob("energy_uj"))


def test_the_counter_rises_between_the_readings(tmp_path: Path) -> None:
    with running(tmp_path, lambda _: reading(package=1000.0), interval=30.0) as run:
        wait_for(lambda: bool(zones_of(run.tree)), "no value is published")
        seen = {zones_of(run.tree)["package-0"]}
        wait_for(lambda: seen.add(zones_of(run.tree)["package-0"]) or len(seen) > 5, "the counter stands still")
        assert len(run.states) <= 2, "further readings were published"
    assert counters(run.tree) == []


def test_a_reading_has_the_observation_and_all_problems(tmp_path: Path) -> None:
    seen: list[Reading] = []

    def read(observation: Observation) -> Reading:
        return reading(MEASURED, package=40.0, dram=4.0)

    with running(tmp_path, read) as run:
        write = PowercapOutput.write
        run.publisher._outputs["powercap"].write = lambda r, j: (
            seen.append(r)
            or write(  # type: ignore[method-assign]
                run.publisher._outputs["powercap"],
                r,
                j,  # type: ignore[arg-type]
            )
        )
        state = run.next_state()
        wait_for(lambda: bool(seen), "nothing is written")
    assert state.power["package"].watts == 40.0
    assert (state.kind, state.source, state.problems) == ("measured", "powercap", ["perf is missing"])
    assert state.features == {"cpu_user_ms": 500.0}
    assert seen[0].observation is not None
    assert (seen[0].observation.load, seen[0].observation.problems) == (0.5, ("perf is missing",))


@pytest.mark.parametrize("error", [MeterError("no source knows the power"), ZeroDivisionError("a defect")])
def test_without_an_estimate_the_counter_is_missing_and_then_continues(
    tmp_path: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []

    def read(_: Observation) -> Reading:
        if errors:
            raise errors[0]
        return reading(package=1000.0)

    with running(tmp_path, read) as run:
        wait_for(lambda: bool(zones_of(run.tree)), "no value is published")
        before = zones_of(run.tree)["package-0"]
        errors.append(error)
        assert str(error) in run.next_state(lambda state: not state.power).reason
        assert counters(run.tree) == []
        errors.clear()
        run.next_state(lambda state: bool(state.power))
        assert zones_of(run.tree)["package-0"] >= before
    assert caplog.text.count("no estimate") == 1, "the reason is logged once"


def test_broken_collectors_do_not_stop_a_meter_that_needs_no_features(tmp_path: Path) -> None:
    with running(tmp_path, lambda _: reading(MEASURED, package=40.0), BrokenCollectors()) as run:
        assert run.next_state(lambda state: bool(state.power)).problems == ["there is no /proc/stat"]


def test_a_signal_ends_a_wait() -> None:
    with stop_signal() as stop:
        assert stop.wait(0.01) is False
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
        assert stop.wait(30.0) is True
        assert stop.wait(30.0) is True, "the signal is not forgotten"
