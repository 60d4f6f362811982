"""Checks of outputs."""

from __future__ import annotations

from kepler_core.errors import OutputError
from kepler_core.metering import Power, Provenance, Reading
from kepler_core.plugins.arguments import create
from kepler_core.testing.checks import CheckFunction, Subject, require

_READING = Reading(
    time=1_700_000_000.0,
    power={"package": Power(42.0, 30.0, 54.0), "dram": Power(8.0, 6.0, 10.0)},
    provenance=Provenance("formula", "machine-formula", "1"),
)


def advances_at_a_positive_interval(subject: Subject) -> None:
    """Check that `advance_seconds` is None or a positive number of seconds."""
    seconds = subject.plugin.advance_seconds
    require(
        seconds is None or (isinstance(seconds, int | float) and seconds > 0),
        f"advance_seconds is {seconds!r}; write a positive number of seconds, or None",
    )


def publishes_and_withdraws(subject: Subject) -> None:
    """Check that an output publishes readings, withdraws them, and can be closed twice.

    The output may raise `OutputError`, but only with a message.
    """
    output = create(subject.plugin, subject.name, subject.arguments)
    try:
        output.restore()
        output.open()
        output.write(_READING, {"package": 1.0, "dram": 1.0})
        output.advance({"package": 1.5, "dram": 1.25})
        output.withdraw("a check")
        output.write(_READING, {"package": 2.0, "dram": 1.5})
    except OutputError as error:
        require(error.message.strip(), "the OutputError has no text")
    finally:
        output.close()
        output.close()


CHECKS: tuple[CheckFunction, ...] = (advances_at_a_positive_interval, publishes_and_withdraws)
