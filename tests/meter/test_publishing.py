"""Tests of the meter's publisher, which has one energy counter per component and several outputs, some with errors."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

import pytest
from support.readings import FORMULA, reading

from kepler_core.errors import MeterError, OutputError
from kepler_core.metering import Output, Power, Reading
from kepler_servers.meter.publishing import Publisher, Zones


class Recorder(Output):
    """Output that records its calls."""

    advance_seconds = 0.1

    def __init__(self, restored: Mapping[str, float] | None = None) -> None:
        self.calls: list[tuple[str, Mapping[str, float]]] = []
        self.restored = restored or {}

    def restore(self) -> Mapping[str, float]:
        return self.restored

    def open(self) -> None:
        self.calls.append(("open", {}))

    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        self.calls.append(("write", dict(joules)))

    def advance(self, joules: Mapping[str, float]) -> None:
        self.calls.append(("advance", dict(joules)))

    def withdraw(self, reason: str) -> None:
        self.calls.append((reason, {}))

    def close(self) -> None:
        self.calls.append(("close", {}))


class Failing(Recorder):
    """Output that calls the function `fail` before each `write` and `advance`. The function may raise an exception."""

    def __init__(self, fail: Callable[[], None]) -> None:
        super().__init__()
        self.fail = fail

    def write(self, reading: Reading, joules: Mapping[str, float]) -> None:
        self.fail()
        super().write(reading, joules)

    def advance(self, joules: Mapping[str, float]) -> None:
        self.fail()
        super().advance(joules)


def test_all_outputs_publish_the_same_energy() -> None:
    outputs = {"a": Recorder({"package": 5.0}), "b": Recorder({"package": 7.0, "dram": 1.0})}
    publisher = Publisher(outputs, valid_seconds=10.0)
    publisher.open()
    publisher.publish(reading(package=10.0), 100.0)
    assert publisher.next_advance == pytest.approx(100.1)
    publisher.advance(100.1)
    publisher.withdraw("broken", 101.0)
    assert publisher.next_advance == math.inf
    publisher.publish(reading(package=20.0), 200.0)
    publisher.close()
    for output in outputs.values():
        assert [name for name, _ in output.calls] == ["open", "write", "advance", "broken", "write", "close"]
        joules = [joules["package"] for name, joules in output.calls if name in ("write", "advance")]
        assert joules == pytest.approx([7.0, 8.0, 17.0])


def test_an_output_that_fails_does_not_stop_the_other_ones(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    problems: list[Exception] = [OutputError("the disk is full"), ZeroDivisionError("a defect")]

    def fail() -> None:
        if problems:
            raise problems[0]

    failing, good = Failing(fail), Recorder()
    publisher = Publisher({"failing": failing, "good": good}, valid_seconds=10.0)
    publisher.open()
    for now in (0.0, 1.0):
        publisher.publish(reading(package=10.0), now)
        publisher.advance(now + 0.2)
    assert publisher.problems == {"failing": "the disk is full"}
    problems.pop(0)
    publisher.publish(reading(package=10.0), 2.0)
    problems.clear()
    publisher.publish(reading(package=10.0), 3.0)
    assert publisher.problems == {}
    publisher.advance(3.2)
    assert [name for name, _ in failing.calls] == ["open", "write", "advance"]
    assert [name for name, _ in good.calls] == ["open", *["write", "advance"] * 2, "write", "write", "advance"]
    assert [record.getMessage() for record in caplog.records] == [
        "output failing fails, and is tried again with the next reading: the disk is full",
        "output failing fails, and is tried again with the next reading: ZeroDivisionError: a defect",
        "output failing works again",
    ]


def test_advances_come_at_the_interval_although_one_was_late() -> None:
    output = Recorder()
    publisher = Publisher({"output": output}, valid_seconds=10.0)
    publisher.open()
    publisher.publish(reading(package=10.0), 0.0)
    due = []
    for delay in (0.0, 0.03, 0.0, 5.0, 0.0):
        due.append(publisher.next_advance)
        publisher.advance(publisher.next_advance + delay)
    assert due == pytest.approx([0.1, 0.2, 0.3, 0.4, 5.45])


def test_if_an_output_cannot_be_opened_all_are_closed() -> None:
    class Refused(Recorder):
        def open(self) -> None:
            raise OutputError("another meter publishes there")

    first = Recorder()
    with pytest.raises(OutputError, match="another meter publishes there"):
        Publisher({"first": first, "refused": Refused()}, valid_seconds=10.0).open()
    assert [name for name, _ in first.calls] == ["open", "close"]


def test_the_power_of_the_whole_machine_is_published_as_package() -> None:
    assert set(Zones().of(reading(platform=90.0)).power) == {"package"}
    assert set(Zones(total="platform").of(reading(platform=90.0)).power) == {"platform"}
    assert Zones().of(reading(platform=90.0, package=40.0)).power.keys() == {"platform", "package"}
    assert Zones().of(reading(platform=90.0)).is_whole_machine
    for zones, watts in ((Zones(), {"package": 40.0}), (Zones(total="platform"), {"platform": 90.0})):
        assert not zones.of(reading(**watts)).is_whole_machine
    assert not Zones().of(reading(platform=90.0, package=40.0)).is_whole_machine
    assert Zones(only=("package",)).of(reading(package=40.0, dram=5.0)).power.keys() == {"package"}


@pytest.mark.parametrize(
    ("zones", "watts", "message"),
    [
        (Zones(only=("dram",)), {"package": 40.0}, "machine-formula has no power of dram; it has package"),
        (Zones(), {"package": math.nan}, "machine-formula: nan W of package is impossible"),
        (Zones(), {"package": -1.0}, "machine-formula: -1 W of package is impossible"),
        (Zones(), {"package": 2e6}, "machine-formula: 2e\\+06 W of package is impossible"),
    ],
)
def test_impossible_powers_are_not_published(zones: Zones, watts: dict[str, float], message: str) -> None:
    power = {component: Power(value, value, value) for component, value in watts.items()}
    with pytest.raises(MeterError, match=message):
        zones.of(Reading(time=0.0, power=power, provenance=FORMULA))
