"""The status file of a meter, which `kepler-model meter status` reads."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from kepler_core.atomic_files import replace_file
from kepler_core.errors import MeterError
from kepler_core.messages import reason_of

FILE_NAME = "status.json"
_MAX_BYTES = 2**20
_MAX_AGE_INTERVALS = 3


class ZonePower(msgspec.Struct, frozen=True):
    """Power of one component in watts with its 90 % interval, and the component's energy counter in joules."""

    watts: float
    lower: float
    upper: float
    joules: float


class MeterStatus(msgspec.Struct, frozen=True):
    """State of a meter at the end of a period."""

    pid: int
    started: float
    """Unix time of the start of the meter."""
    time: float
    """Unix time of this status."""
    interval: float
    """Seconds between two readings."""
    power: dict[str, ZonePower]
    """Power by component; empty if there is no estimate."""
    reason: str
    """Reason why there is no estimate; empty if there is an estimate."""
    kind: str
    """Kind of the power source (measured, model or formula); empty if there is no estimate."""
    source: str
    version: str
    description: str
    idle_share: str
    flags: list[str]
    features: dict[str, float]
    problems: list[str]
    output_problems: dict[str, str]
    """The reasons why outputs fail, by the name of the output."""
    collect_seconds: float
    """Duration of the latest collection of features."""
    estimate_seconds: float
    """Duration of the latest estimate."""
    latest_delay_seconds: float
    """Longest delay of a publication since the start of the meter."""


def write_status(folder: int, status: MeterStatus) -> None:
    """Replace the status file in a folder. `folder` is an open file descriptor of the folder. Raises `OSError`."""
    replace_file(folder, FILE_NAME, msgspec.json.encode(status) + b"\n")


def read_status(folder: Path) -> MeterStatus:
    """Read the status file of a running meter. Raises `MeterError` if no meter runs, or if the file is invalid."""
    path = folder / FILE_NAME
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
        status = msgspec.json.decode(content, type=MeterStatus)
    except FileNotFoundError as error:
        raise MeterError(
            f"no meter publishes in {folder}: there is no {FILE_NAME}; give its folder with --tree"
        ) from error
    except OSError as error:
        raise MeterError(f"cannot read {path}: {reason_of(error)}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MeterError(f"{path} is not the status of a meter: {reason_of(error)}") from error
    age = time.time() - status.time
    if age > _MAX_AGE_INTERVALS * status.interval + 1:
        raise MeterError(f"the newest status in {folder} is {age:.0f} s old: process {status.pid} has ended, or hangs")
    return status
