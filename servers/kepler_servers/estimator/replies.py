"""Replies in a form that Kepler can read: it reads once, and at most 4096 bytes."""

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
"""Bytes that Kepler reads of a reply."""
DECIMALS = 3
"""Decimals of a reply that fits the limit: Kepler counts whole milliwatts."""

_FEW_NUMBERS = 16
"""Up to this number, Python's floats are faster than arrays. The watts of a node are one row."""

_LEAST_NEEDED = ("uncore", "core", "dram")
"""Components that a reply without room leaves out, in this order."""


@attrs.frozen
class Reply:
    """The bytes of a reply, and what it lacks because of the limit."""

    content: bytes
    decimals: int = DECIMALS
    left_out: tuple[str, ...] = ()
    """Components that the reply does not contain."""
    too_long: bool = False


def watts_reply(
    components: Sequence[str],
    watts: FloatArray,
    *,
    limit: int,
    core_ratio: float | None = None,
    message: str = "",
    keep_sums: bool = False,
) -> Reply:
    """Encode watts, shape (components, rows), in at most `limit` bytes (0: no limit) if possible.

    A reply that is too long gets fewer decimals. If whole watts are too long, it leaves out the
    components in `_LEAST_NEEDED`, which Kepler counts as 0 W.

    `keep_sums` is for rows that are parts of a whole (containers of a node). With fewer decimals, the
    rounding error of a row is carried to the next one. So the sum stays correct, and many small rows do
    not all become 0 W.
    """
    tail: dict[str, Any] = {"msg": message}
    if core_ratio is not None:
        tail["core_ratio"] = core_ratio
    if watts.size <= _FEW_NUMBERS:
        lists = dict(zip(components, watts.tolist(), strict=True))
        nonzero_lists = {name: row for name, row in lists.items() if any(row)} or {components[0]: lists[components[0]]}
        reply = _encoded({name: [round(x, DECIMALS) for x in row] for name, row in nonzero_lists.items()}, tail)
        if not limit or len(reply) <= limit:
            return Reply(reply)
    names = list(components)
    # Usually the first row is above 0 W in every component. That is faster to check than all rows.
    if len(names) > 1 and not all(watts[:, :1].ravel().tolist()):
        # If everything is 0 W, one component stays: Kepler needs a value per row.
        nonzero = [i for i, any_watts in enumerate(np.logical_or.reduce(watts, axis=1).tolist()) if any_watts] or [0]
        names = [names[i] for i in nonzero]
        watts = watts[nonzero]
    # A number with decimals takes at least four bytes: a digit, a point, one decimal and a comma.
    decimals = DECIMALS if not limit or watts.size * 4 - len(watts) <= limit else 0
    while True:
        numbers = _numbers(watts, decimals, keep_sums and decimals < DECIMALS)
        powers = dict(zip(names, numbers, strict=True))
        reply = _encoded(powers, tail)
        if not limit or len(reply) <= limit:
            return Reply(reply, decimals)
        if not decimals:
            break
        # One decimal less saves at most one byte per number.
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
    """Round watts to a number of decimals. With 0 decimals the result has integers.

    `carry`: carry the rounding error of each row to the next one.
    """
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
    """Encode the safest reply to a request that has no answer.

    For AbsPower it has no powers. For DynPower it has a zero per row and component: Kepler panics on a
    shorter list.
    """
    if output_type != "DynPower":
        return _shortened_reply({}, message, limit)
    return _shortened_reply({component: [0] * rows for component in components}, message, limit)


def _shortened_reply(powers: dict[str, list[int]], message: str, limit: int) -> Reply:
    """Encode a reply, with as much of the message as the limit allows."""
    content = msgspec.json.encode({"powers": powers, "msg": message})
    while limit and len(content) > limit and message:
        # Not exactly by the excess: a character may take six bytes.
        message = message[: min(len(message) * 3 // 4, limit)]
        content = msgspec.json.encode({"powers": powers, "msg": message})
    return Reply(content, too_long=bool(limit) and len(content) > limit)
