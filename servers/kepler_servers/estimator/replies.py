"""Replies as Kepler reads them: once, and at most 4096 bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

READ_LIMIT = 4096
DECIMALS = (3, 2, 1, 0)
"""Milliwatts, if they fit; the client has no finer ones."""

_LONGEST_USUAL = 12
"""Bytes of a number with three decimals and a comma, below ten megawatts."""

_LEAST_NEEDED = ("uncore", "core", "dram")


@attrs.frozen
class Reply:
    """The bytes of a reply, and what had to be given up to make it fit."""

    content: bytes
    decimals: int = DECIMALS[0]
    left_out: tuple[str, ...] = ()
    too_long: bool = False


def watts_reply(
    watts: Mapping[str, Floats],
    *,
    limit: int,
    core_ratio: float | None = None,
    message: str = "",
    parts_of_a_whole: bool = False,
) -> Reply:
    """Watts per component, one per row, within `limit` bytes (0: no limit) if that can be.

    First decimals are given up, then the parts of the package and dram, which the client counts as 0 W.
    Where rows are `parts_of_a_whole` (containers of a node), fewer decimals leave their sum as it is:
    what one row loses goes to the next, so that many small rows do not all become 0 W.
    """
    tail: dict[str, Any] = {"msg": message}
    if core_ratio is not None:
        tail["core_ratio"] = core_ratio
    names = list(watts)
    values = np.array(list(watts.values()))
    if len(names) > 1:
        # where every row is 0 W, the client still counts the rows of one component
        live = [row for row, has in enumerate(np.logical_or.reduce(values, axis=1).tolist()) if has] or [0]
        names = [names[row] for row in live]
        values = values[live]
    overhead = len(_encode({}, tail)) + sum(len(name) + 6 for name in names)
    room = limit - overhead if limit else None
    for decimals in _worth_trying(values, room):
        steps = _steps(values, decimals, parts_of_a_whole and decimals < DECIMALS[0])
        if room is None or _fits(steps, decimals, room):
            reply = _encode(dict(zip(names, _numbers(steps, decimals), strict=True)), tail)
            if not limit or len(reply) <= limit:
                return Reply(reply, decimals)
    powers = dict(zip(names, _numbers(steps, 0), strict=True))
    left_out: list[str] = []
    reply = _encode(powers, tail)
    for component in _LEAST_NEEDED:
        if component in powers and len(powers) > 1:
            del powers[component]
            left_out.append(component)
            tail["msg"] = f"{message + '; ' if message else ''}no room for {', '.join(left_out)}"
            reply = _encode(powers, tail)
            if len(reply) <= limit:
                return Reply(reply, 0, tuple(left_out))
    return Reply(reply, 0, tuple(left_out), too_long=True)


def _steps(values: Floats, decimals: int, carry: bool) -> Floats:
    """Whole numbers of the last decimal's unit, of the shape of the values."""
    scaled = values * 10.0**decimals
    if carry:
        return np.diff(np.rint(np.cumsum(scaled, axis=1)), axis=1, prepend=0.0)
    return np.rint(scaled)


def _worth_trying(values: Floats, room: int | None) -> Sequence[int]:
    if room is None or values.size * _LONGEST_USUAL <= room:
        return DECIMALS
    # at least the whole digits, a point, one decimal and a comma
    return DECIMALS if _whole_digits(values) + values.size * 3 - len(values) <= room else DECIMALS[-1:]


def _fits(steps: Floats, decimals: int, room: int) -> bool:
    """Whether the numbers with commas between, without the brackets, are within `room` bytes: whole
    digits, and unless there are no decimals a point and the decimals without zeros at their end, at
    least one."""
    length = _whole_digits(steps / 10.0**decimals) + steps.size - len(steps)
    if decimals:
        length += (decimals + 1) * steps.size
        for power in range(1, decimals):
            if length <= room:
                break
            length -= int(np.count_nonzero(steps % 10.0**power == 0))
    return length <= room


def _whole_digits(values: Floats) -> int:
    """Digits before the point, of all numbers together."""
    return int(np.floor(np.log10(np.maximum(values, 1.0)) + 1e-12).sum()) + values.size


def _numbers(steps: Floats, decimals: int) -> list[list[float]] | list[list[int]]:
    if decimals == 0:
        return steps.astype(np.int64).tolist()  # type: ignore[no-any-return]
    return (steps / 10.0**decimals).tolist()  # type: ignore[no-any-return]


def _encode(powers: Mapping[str, Any], tail: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode({"powers": powers, **tail})


def failure_reply(message: str, output_type: str | None, rows: int, components: Sequence[str], *, limit: int) -> Reply:
    """What is safe when there is no answer.

    AbsPower: no powers. DynPower: zeros for these components, one per row, because Kepler itself fails
    on a shorter list.
    """
    if output_type != "DynPower":
        return _shortened({}, message, limit)
    return _shortened({component: [0] * rows for component in components}, message, limit)


def _shortened(powers: dict[str, list[int]], message: str, limit: int) -> Reply:
    content = msgspec.json.encode({"powers": powers, "msg": message})
    while limit and len(content) > limit and message:
        # by bytes: a character may take six of them
        message = message[: min(len(message) * 3 // 4, limit)]
        content = msgspec.json.encode({"powers": powers, "msg": message})
    return Reply(content, too_long=bool(limit) and len(content) > limit)
