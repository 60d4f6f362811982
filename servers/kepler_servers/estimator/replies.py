"""Encode replies. Kepler reads a reply with a single read of at most 4096 bytes, so replies should be short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from kepler_core.arrays import FloatArray
from kepler_servers.estimator.joint_rounding import round_jointly

READ_LIMIT = 4096
"""Maximum number of bytes that Kepler reads of a reply."""
DECIMALS = 3
"""Number of decimals of the watts, unless the reply would be too long. Kepler uses whole milliwatts: three decimals."""

_FEW_NUMBERS = 16
"""For replies with at most this number of values, Python floats are encoded faster than NumPy arrays."""


@attrs.frozen
class _Way:
    """A way to shorten a reply: the components that stay in the reply, each with its number of decimals.

    `concentrate_core` is passed to `round_jointly`, which then moves core power to the rows with the most core power.
    """

    decimals: Mapping[str, int]
    concentrate_core: bool = False


_SHORTER = (
    _Way({"package": 2, "core": 2, "uncore": 2, "dram": 2, "platform": 2}),
    _Way({"package": 2, "core": 2, "dram": 2, "platform": 2}),
    _Way({"package": 2, "core": 1, "dram": 2, "platform": 2}, concentrate_core=True),
    _Way({"package": 2, "core": 1, "dram": 1, "platform": 2}, concentrate_core=True),
    _Way({"package": 1, "core": 1, "dram": 1, "platform": 1}, concentrate_core=True),
    _Way({"package": 1, "dram": 1, "platform": 1}),
    _Way({"package": 0, "dram": 0, "platform": 0}),
    _Way({"package": 0, "platform": 0}),
)
"""The ways to shorten a reply. They are tried in this order until the reply is short enough.

For hundreds of processes, this order makes the errors of two values smallest: the power of all processes together, and
the average power of a small process over many replies. Kepler computes both values from the replies.
"""


@attrs.frozen
class Reply:
    """The bytes of a reply, and what was left out to keep the reply within the limit of bytes."""

    content: bytes
    decimals: int = DECIMALS
    left_out: tuple[str, ...] = ()
    """Components that were left out because the reply would have been too long."""
    too_long: bool = False


def watts_reply(
    components: Sequence[str],
    watts: FloatArray,
    *,
    limit: int,
    core_ratio: float | None = None,
    message: str = "",
    remark: str = "",
    keep_sums: bool = False,
    turn: int = 0,
) -> Reply:
    """Encode watts as a reply of at most `limit` bytes, if possible. If `limit` is 0, there is no limit.

    `watts` has the shape (components, rows). If the reply is too long, the watts get fewer decimals, and components are
    left out. `_SHORTER` lists the steps in order. Kepler counts a missing component as 0 W.

    `keep_sums` is for rows that are parts of a whole, such as the containers of a node. If such watts get fewer
    decimals, they are rounded by `round_jointly`, so that the sums over the rows stay right. `turn` is the argument of
    `round_jointly`; it must differ from reply to reply.

    `remark` is added to `message` if the reply has room for it without shorter watts.
    """
    if remark:
        both = f"{message}; {remark}" if message else remark
        reply = _watts_reply(components, watts, limit, core_ratio, both, None)
        if reply.decimals == DECIMALS and not (reply.left_out or reply.too_long):
            return reply
    return _watts_reply(components, watts, limit, core_ratio, message, turn if keep_sums else None)


def _watts_reply(
    components: Sequence[str],
    watts: FloatArray,
    limit: int,
    core_ratio: float | None,
    message: str,
    turn: int | None,
) -> Reply:
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
    # Leave out the components that are 0 W in all rows. Usually, all components are above 0 W in the first row. This
    # fast check comes first: if it succeeds, no component is left out.
    if len(names) > 1 and not all(watts[:, :1].ravel().tolist()):
        # If all components are 0 W in all rows, the first component stays: Kepler needs a value for each row.
        nonzero = [i for i, any_watts in enumerate(np.logical_or.reduce(watts, axis=1).tolist()) if any_watts] or [0]
        names = [names[i] for i in nonzero]
        watts = watts[nonzero]
    rounded = np.round(watts, DECIMALS)
    # `_encoded_whole` makes the reply shorter, but takes longer. Most replies do not need it.
    for encode, least_bytes in ((_encoded, _least_bytes_with_decimals), (_encoded_whole, _least_bytes)):
        if limit and least_bytes(rounded) > limit:
            continue
        reply = encode(dict(zip(names, rounded, strict=True)), tail)
        if not limit or len(reply) <= limit:
            return Reply(reply)
    return _shorter_reply(names, watts, limit=limit, tail=tail, turn=turn)


def _shorter_reply(
    components: Sequence[str], watts: FloatArray, *, limit: int, tail: Mapping[str, Any], turn: int | None
) -> Reply:
    """Encode a shortened reply.

    `_SHORTER` lists the ways to shorten a reply. The function uses the first way that makes this reply short enough. If
    no way makes it short enough, the function uses the last way.

    `round_jointly` rounds the watts, with its argument `turn`. If `turn` is None, each value is rounded alone.
    """
    tried: tuple[dict[str, int], bool] | None = None
    sizes = _UsualBytes(components, watts)
    for way in _SHORTER:
        decimals = {name: way.decimals[name] for name in components if name in way.decimals}
        decimals = decimals or dict.fromkeys(components[:1], 0)
        concentrate_core = way.concentrate_core and {"package", "core"} <= decimals.keys()
        if (decimals, concentrate_core) == tried:
            continue
        if way is not _SHORTER[-1] and sizes.of(decimals) > limit:
            continue
        tried = decimals, concentrate_core
        used = watts[[components.index(name) for name in decimals]]
        if turn is None:
            rounded = np.array([np.round(row, n) for row, n in zip(used, decimals.values(), strict=True)])
        else:
            rounded = round_jointly(list(decimals), used, decimals, turn, concentrate_core=concentrate_core)
        left_out = tuple(name for name in ("uncore", "core", "dram") if name in components and name not in decimals)
        if way is not _SHORTER[-1] and _least_bytes(rounded) > limit:
            tried = None  # the last way must be tried even if it equals this way, because it must make a reply
            continue
        content = _encoded_whole(dict(zip(decimals, rounded, strict=True)), _with_left_out(tail, left_out))
        if len(content) <= limit:
            break
    return Reply(content, min(decimals.values()), left_out, too_long=len(content) > limit)


class _UsualBytes:
    """Estimates the length of a reply in bytes. Most replies are not shorter than the estimate."""

    def __init__(self, components: Sequence[str], watts: FloatArray) -> None:
        """`watts` has the shape (components, rows)."""
        self._watts = dict(zip(components, watts, strict=True))
        self._nonzero: dict[tuple[str, int], int] = {}
        """Number of rows with enough watts for the last decimal, e.g. at least 0.01 W for two decimals.

        A key is a component and a number of decimals.
        """

    def of(self, decimals: Mapping[str, int]) -> float:
        """Return the estimated length. `decimals` maps each component in the reply to its number of decimals.

        A whole number takes at least two bytes, including the comma after it. A number with decimals takes at least two
        bytes more. The estimate adds only 1.7 bytes, because up to 15 % of the watts may happen to be whole numbers.
        """
        parts = [self._count(name, n) for name, n in decimals.items() if n]
        numbers = sum(len(self._watts[name]) for name in decimals)
        return 2 * numbers + 1.7 * sum(parts)

    def _count(self, name: str, decimals: int) -> int:
        if (name, decimals) not in self._nonzero:
            self._nonzero[name, decimals] = int(np.count_nonzero(self._watts[name] >= 10.0**-decimals))
        return self._nonzero[name, decimals]


def _least_bytes_with_decimals(rounded: FloatArray) -> int:
    """Return the minimum length in bytes of the reply that `_encoded` makes of the numbers in `rounded`.

    The shortest text of a number is "0.0,", which has four bytes.
    """
    return 4 * rounded.size


def _least_bytes(rounded: FloatArray) -> int:
    """Return the minimum length in bytes of the reply that `_encoded_whole` makes of the numbers in `rounded`.

    A number takes one byte for each digit before the decimal point, and one byte for the comma after the number. If the
    number is not whole, the decimal point and at least one decimal take two more bytes.
    """
    whole = np.floor(rounded)
    fractions = np.count_nonzero(whole != rounded)
    several_digits = sum(int(np.count_nonzero(whole >= power)) for power in (10.0, 100.0))
    return 2 * rounded.size + 2 * int(fractions) + several_digits


def _with_left_out(tail: Mapping[str, Any], left_out: Sequence[str]) -> Mapping[str, Any]:
    """Return the JSON members that follow `powers` in a reply. `msg` also names the components in `left_out`."""
    if not left_out:
        return tail
    message = f"{tail['msg']}; " if tail["msg"] else ""
    return {**tail, "msg": f"{message}no room for {', '.join(left_out)}"}


def with_explanation(reply: Reply, explanation: Mapping[str, Any]) -> Reply:
    """Return a reply with the key `explanation` after all other keys. The other keys do not change."""
    content = b'%b,"explanation":%b}' % (reply.content[:-1], orjson.dumps(explanation))
    return attrs.evolve(reply, content=content)


def _encoded(powers: Mapping[str, NDArray[Any] | list[float]], tail: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"powers": powers, **tail}, option=orjson.OPT_SERIALIZE_NUMPY)


def _encoded_whole(powers: Mapping[str, NDArray[Any]], tail: Mapping[str, Any]) -> bytes:
    """Encode a reply. Write whole numbers of watts without a decimal point, e.g. `0` instead of `0.0`."""
    numbers = orjson.dumps(powers, option=orjson.OPT_SERIALIZE_NUMPY)
    whole = numbers.replace(b".0,", b",").replace(b".0]", b"]")
    return b'{"powers":%b,%b' % (whole, orjson.dumps(tail)[1:])


def failure_reply(message: str, output_type: str | None, rows: int, components: Sequence[str], *, limit: int) -> Reply:
    """Encode the reply to a request that cannot be answered, in the form that is safest for Kepler.

    The reply to a request for AbsPower has no powers. The reply to a request for DynPower has a zero for
    each row and component, because Kepler panics if a list is shorter than the number of rows.
    """
    if output_type != "DynPower":
        return _shortened_reply({}, message, limit)
    return _shortened_reply({component: [0] * rows for component in components}, message, limit)


def _shortened_reply(powers: dict[str, list[int]], message: str, limit: int) -> Reply:
    """Encode a reply. If it exceeds the limit of bytes, shorten its message until it does not."""
    content = msgspec.json.encode({"powers": powers, "msg": message})
    while limit and len(content) > limit and message:
        # The message is shortened in steps, because a character may take up to six bytes.
        message = message[: min(len(message) * 3 // 4, limit)]
        content = msgspec.json.encode({"powers": powers, "msg": message})
    return Reply(content, too_long=bool(limit) and len(content) > limit)
