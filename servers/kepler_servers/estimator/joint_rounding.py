"""Round the watts of many processes so that the sums that Kepler computes over the processes stay right.

Kepler corrects the power of each process: package power becomes at least core plus uncore power, and core power
becomes package minus uncore power if the core power is 0. If the components were rounded independently of each other,
these corrections would only ever increase the power, and the sums over the processes would be too high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray

MOVED = 0.15
"""Maximum fraction of the total core power that `concentrate_core` takes from the rows with the least core power."""
_STEPS = {"package": 2**0.5 - 1, "core": (5**0.5 - 1) / 2, "uncore": (13**0.5 - 3) / 2, "dram": 3**0.5 - 1}
"""Component -> the step by which the result of `_start` grows from one reply to the next, modulo 1.

The step of `package` is used for the remainder of the package power: package − core − uncore. The multiples of a
quadratic irrational with small partial quotients, modulo 1, are a low-discrepancy sequence: the average over n replies
differs from the exact watts by a multiple of log(n)/n (L. Kuipers, H. Niederreiter, "Uniform Distribution of
Sequences", 1974, chapter 2.3).
"""


def round_jointly(
    components: Sequence[str],
    watts: FloatArray,
    decimals: Mapping[str, int],
    turn: int,
    *,
    concentrate_core: bool = False,
) -> FloatArray:
    """Round the watts of processes to the number of decimals of each component.

    `watts` and the result have the shape (components, rows). In each component, the amount that rounding removes from a
    row is added to the next row, so that the sums over the rows stay right. The number that is added to the first row
    depends on `turn`, the number of earlier replies. Otherwise, the same rows would be rounded down in each reply.

    The package power of a row is the sum of three rounded parts: core, uncore, and the remainder (package − core −
    uncore). So core, uncore and package need equal decimals. Only rows with core power get a remainder, because Kepler
    would count the remainder of any other row as core power.

    With `concentrate_core`, only the rows whose core power is highest get core power. In all other rows, the core power
    is 0, which is a single character in the reply. `components` must not contain uncore in this case.
    """
    at = {name: index for index, name in enumerate(components)}
    units: FloatArray = np.array([[10.0 ** decimals[name]] for name in components])
    exact = watts * units
    if concentrate_core:
        exact[at["core"]] = _concentrated(exact[at["core"]])
    rounded = np.empty_like(exact)
    for name, index in at.items():
        rounded[index] = _carried(exact[index], _start(name, turn))
    if concentrate_core:
        package = rounded[at["package"]] * (units[at["core"]] / units[at["package"]])
        rounded[at["core"]] = _within(rounded[at["core"]], np.floor(package + 1e-9))
    elif "package" in at and (parts := [at[name] for name in ("core", "uncore") if name in at]):
        rest = np.maximum(exact[at["package"]] - exact[parts].sum(axis=0), 0.0)
        if "core" in at:
            rest = _on_rows_with_core(rest, exact[at["core"]], rounded[at["core"]] > 0)
        rounded[at["package"]] = _carried(rest, _start("package", turn)) + rounded[parts].sum(axis=0)
    rounded /= units
    return rounded


def _concentrated(core: FloatArray) -> FloatArray:
    """Move core power from the rows with the least core power to all other rows.

    The share that a row gets is proportional to the core power that it already has. The function moves at most the
    fraction `MOVED` of the total core power.
    """
    order = np.argsort(core, kind="stable")
    small = order[core[order].cumsum() <= MOVED * core.sum()]
    concentrated = core.copy()
    concentrated[small] = 0.0
    concentrated *= core.sum() / max(concentrated.sum(), 1e-12)
    return concentrated


def _within(values: FloatArray, highest: FloatArray) -> FloatArray:
    """Reduce each value to its limit in `highest`. Add the removed amount to the rows farthest below their limits."""
    kept: FloatArray = np.minimum(values, highest)
    room = highest - kept
    order = np.argsort(-room, kind="stable")
    room_before = np.concatenate([[0.0], np.cumsum(room[order])[:-1]])
    kept[order] += np.clip((values - kept).sum() - room_before, 0.0, room[order])
    return kept


def _on_rows_with_core(rest: FloatArray, core: FloatArray, has_core: BoolArray) -> FloatArray:
    """Move the remainders of the package power to the rows whose rounded core power is above 0 (`has_core`).

    `rest` is the remainder of each row (package − core − uncore). All arrays have the shape (rows,), and all powers are
    in units of the last decimal. If the core power of a row is below 1, e.g. 0.3, it is rounded to 1 in 30 % of the
    replies, and to 0 in all other replies. In the replies with 1, the row gets its remainder divided by 0.3, so that
    its average over many replies is right. Rows with a core power of at least 1 share the difference that is left, so
    that the sum over the rows is right in each reply.
    """
    moved = np.where(has_core, rest / np.clip(core, 1e-12, 1.0), 0.0)
    large = rest * (has_core & (core >= 1))
    if (total := large.sum()) > 0:
        moved += large * max((rest.sum() - moved.sum()) / total, -1.0)
    return moved


def _carried(exact: FloatArray, start: float) -> FloatArray:
    """Round the values of a component.

    Carry the rounding error of each row to the next row; row 0 gets `start` (0–1).
    """
    rounded: FloatArray = exact.cumsum()
    rounded += start
    np.floor(rounded, out=rounded)
    rounded[1:] -= rounded[:-1].copy()  # `np.diff` with `prepend` would take four times as long
    return rounded


def _start(component: str, turn: int) -> float:
    return (0.5 + turn * _STEPS.get(component, _STEPS["package"])) % 1.0
