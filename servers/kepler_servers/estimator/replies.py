"""Replies as Kepler reads them: once, and at most 4096 bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    components: Sequence[str],
    watts: Floats,
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
    names = list(components)
    if len(names) > 1:
        # where every row is 0 W, the client still counts the rows of one component
        live = [row for row, has in enumerate(np.logical_or.reduce(watts, axis=1).tolist()) if has] or [0]
        if len(live) < len(names):
            names = [names[row] for row in live]
            watts = watts[live]
    texts: dict[str, bytes] = {}
    for decimals in _worth_trying(watts, limit):
        steps = _steps(watts, decimals, parts_of_a_whole and decimals < DECIMALS[0])
        texts = dict(zip(names, _texts(steps, decimals), strict=True))
        reply = _assembled(texts, tail)
        if not limit or len(reply) <= limit:
            return Reply(reply, decimals)
    left_out: list[str] = []
    for component in _LEAST_NEEDED:
        if component in texts and len(texts) > 1:
            del texts[component]
            left_out.append(component)
            tail["msg"] = f"{message + '; ' if message else ''}no room for {', '.join(left_out)}"
            reply = _assembled(texts, tail)
            if len(reply) <= limit:
                break
    return Reply(reply, 0, tuple(left_out), too_long=len(reply) > limit)


def _worth_trying(watts: Floats, limit: int) -> Sequence[int]:
    # at least a whole digit, a point, one decimal and a comma; then with all whole digits
    least = watts.size * 4 - len(watts)
    if not limit or watts.size * _LONGEST_USUAL <= limit:
        return DECIMALS
    if least > limit or least - watts.size + _whole_digits(watts) > limit:
        return DECIMALS[-1:]
    return DECIMALS


def _whole_digits(watts: Floats) -> int:
    """Digits before the point, of all numbers together."""
    digits, edge = watts.size, 10.0
    while more := int(np.count_nonzero(watts >= edge)):
        digits += more
        edge *= 10.0
    return digits


def _steps(watts: Floats, decimals: int, carry: bool) -> Floats:
    """Whole numbers of the last decimal's unit, of the shape of the watts."""
    steps: Floats = watts * 10.0**decimals
    if carry:
        steps = steps.cumsum(axis=1)
    np.rint(steps, out=steps)
    if carry:
        steps[:, 1:] -= steps[:, :-1].copy()
    return steps


def _table(texts: Iterable[str]) -> NDArray[np.uint64]:
    """Texts of eight bytes as numbers; blanks are bytes of 0."""
    return np.frombuffer("".join(texts).replace(" ", "\0").encode(), dtype=np.uint64)


# eight bytes: whole digits, point and decimals, comma; what they have in common is empty in one of them
_WHOLE = _table(f"{n:3}    ," for n in range(1000))
_DECIMALS = {
    decimals: _table(f"   .{f'{n:0{decimals}}'.rstrip('0') or '0':{decimals}} ".ljust(8) for n in range(10**decimals))
    for decimals in DECIMALS[:-1]
}


def _texts(steps: Floats, decimals: int) -> list[bytes]:
    """Per component the numbers with commas between, without zeros at their end but one."""
    unit = 10**decimals
    if not steps.size or steps.max() >= 1000.0 * unit:
        return [_encoded(row, decimals) for row in steps]
    whole = steps.astype(np.int64)
    if not decimals:
        found = _WHOLE.take(whole)
    else:
        parts = whole
        whole = parts // unit
        parts = parts - whole * unit  # quicker than a remainder
        found = _WHOLE.take(whole) | _DECIMALS[decimals].take(parts)
    return [row.tobytes().translate(None, b"\0")[:-1] for row in found]


def _encoded(steps: Floats, decimals: int) -> bytes:
    """The same for numbers of any size."""
    numbers = steps / 10.0**decimals if decimals else steps.astype(np.int64)
    return msgspec.json.encode(numbers.tolist())[1:-1]


def _assembled(texts: Mapping[str, bytes], tail: Mapping[str, Any]) -> bytes:
    """A reply of the numbers' texts by component."""
    powers = b",".join([b'"%s":[%s]' % (name.encode(), text) for name, text in texts.items()])
    return b'{"powers":{%s},%s' % (powers, msgspec.json.encode(tail)[1:])


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
