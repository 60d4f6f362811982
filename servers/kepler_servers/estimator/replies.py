"""Replies as Kepler reads them: once, and at most 4096 bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from kepler_core.arrays import FloatArray

READ_LIMIT = 4096
DECIMALS = 3
"""Milliwatts, if they fit; the client has no finer ones."""

_FEW = 16
"""Numbers up to which Python's own are quicker than arrays: a node's watts are one row."""

_LEAST_NEEDED = ("uncore", "core", "dram")


@attrs.frozen
class Reply:
    """The bytes of a reply, and what had to be given up to make it fit."""

    content: bytes
    decimals: int = DECIMALS
    left_out: tuple[str, ...] = ()
    too_long: bool = False


def watts_reply(
    components: Sequence[str],
    watts: FloatArray,
    *,
    limit: int,
    core_ratio: float | None = None,
    message: str = "",
    parts_of_a_whole: bool = False,
) -> Reply:
    """Watts, shape (components, rows), within `limit` bytes (0: no limit) if that can be.

    First decimals are given up, then the parts of the package and dram, which the client counts as 0 W.
    Where rows are `parts_of_a_whole` (containers of a node), fewer decimals leave their sum as it is:
    what one row loses goes to the next, so that many small rows do not all become 0 W.
    """
    tail: dict[str, Any] = {"msg": message}
    if core_ratio is not None:
        tail["core_ratio"] = core_ratio
    if watts.size <= _FEW:
        rows = dict(zip(components, watts.tolist(), strict=True))
        live_rows = {name: row for name, row in rows.items() if any(row)} or {components[0]: rows[components[0]]}
        reply = _encoded({name: [round(x, DECIMALS) for x in row] for name, row in live_rows.items()}, tail)
        if not limit or len(reply) <= limit:
            return Reply(reply)
    names = list(components)
    # mostly no first row is 0 W, which is quicker to see than that no component is
    if len(names) > 1 and not all(watts[:, :1].ravel().tolist()):
        # where every row is 0 W, the client still counts the rows of one component
        live = [row for row, has in enumerate(np.logical_or.reduce(watts, axis=1).tolist()) if has] or [0]
        names = [names[row] for row in live]
        watts = watts[live]
    # the shortest that numbers with decimals can be: a digit, a point, one decimal and a comma
    decimals = DECIMALS if not limit or watts.size * 4 - len(watts) <= limit else 0
    while True:
        numbers = _numbers(watts, decimals, parts_of_a_whole and decimals < DECIMALS)
        powers = dict(zip(names, numbers, strict=True))
        reply = _encoded(powers, tail)
        if not limit or len(reply) <= limit:
            return Reply(reply, decimals)
        if not decimals:
            break
        # a decimal less saves a byte of each number, at most
        decimals = max(0, decimals - -(-(len(reply) - limit) // watts.size))
    left_out: list[str] = []
    for component in _LEAST_NEEDED:
        if component in powers and len(powers) > 1:
            del powers[component]
            left_out.append(component)
            tail["msg"] = f"{message + '; ' if message else ''}no room for {', '.join(left_out)}"
            reply = _encoded(powers, tail)
            if len(reply) <= limit:
                break
    return Reply(reply, 0, tuple(left_out), too_long=len(reply) > limit)


def _numbers(watts: FloatArray, decimals: int, carry: bool) -> NDArray[Any]:
    """Watts with so many decimals; whole numbers where there are none."""
    unit = 10.0**decimals
    steps: FloatArray = watts * unit
    if carry:
        steps = steps.cumsum(axis=1)
    np.rint(steps, out=steps)
    if carry:
        steps[:, 1:] -= steps[:, :-1].copy()
    if not decimals:
        return steps.astype(np.int64)
    steps /= unit
    return steps


def _encoded(powers: Mapping[str, NDArray[Any] | list[float]], tail: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"powers": powers, **tail}, option=orjson.OPT_SERIALIZE_NUMPY)


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
