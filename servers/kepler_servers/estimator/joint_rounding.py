"""Round the watts of many processes so that their sums stay right in Kepler.

Kepler corrects the power of each process in two ways. If the package power is less than core plus uncore power, Kepler
raises it to this sum. If the core power is 0, Kepler sets it to package minus uncore power. If each component were
rounded alone, these corrections would only increase the power, and the sums over the processes would be too high.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray

MOVED = 0.15
"""Maximum fraction of the total core power that `concentrate_core` takes from the rows with the least core power."""
_STEPS = {"package": 2**0.5 - 1, "core": (5**0.5 - 1) / 2, "uncore": (13**0.5 - 3) / 2, "dram": 3**0.5 - 1}
"""Step of each component: the result of `_start` grows by this step from one reply to the next, modulo 1.

The step of `package` is used for package − core − uncore. With these steps, the average of the rounded watts over n
replies differs from the exact watts by at most a constant times log(n)/n. The reason is that each step is a quadratic
irrational number with small partial quotients, whose multiples modulo 1 are a low-discrepancy sequence (L. Kuipers,
H. Niederreiter, "Uniform Distribution of Sequences", 1974, chapter 2.3).
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
    row is added to the next row, so that the sums over the rows stay right. A number is also added to the first row. It
    depends on `turn`, the number of earlier replies, so that not every reply rounds down the same rows.

    The package power of a row is the sum of three rounded parts: core, uncore, and the remainder (package − core −
    uncore). So core, uncore and package need equal decimals. Only rows with core power get a remainder, because Kepler
    would count the remainder of any other row as core power.

    With `concentrate_core`, only the rows with the most core power keep core power. The other rows get 0 W of core
    power, because "0" is short. In this case, `components` must not contain uncore.
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
    """Move core power from the rows with the least core power to all other rows, in proportion to their core power.

    The function moves at most the fraction `MOVED` of the total core power.
    """
    order = np.argsort(core, kind="stable")
    small = order[core[order].cumsum() <= MOVED * core.sum()]
    concentrated = core.copy()
    concentrated[small] = 0.0
    concentrated *= core.sum() / max(concentrated.sum(), 1e-12)
    return concentrated


def _within(values: FloatArray, highest: FloatArray) -> FloatArray:
    """Reduce values above their limits in `highest`. Add what was removed to the values farthest below their limits."""
    kept: FloatArray = np.minimum(values, highest)
    room = highest - kept
    order = np.argsort(-room, kind="stable")
    room_before = np.concatenate([[0.0], np.cumsum(room[order])[:-1]])
    kept[order] += np.clip((values - kept).sum() - room_before, 0.0, room[order])
    return kept


def _on_rows_with_core(rest: FloatArray, core: FloatArray, has_core: BoolArray) -> FloatArray:
    """Move the remainders (package − core − uncore) to the rows whose rounded core power is above 0.

    `rest` has the remainder of each row. `has_core` tells which rows have a rounded core power above 0. The unit of all
    powers is the last decimal of the reply. All arrays have the shape (rows,).

    A core power below 1, e.g. 0.3, is rounded to 1 in 30 % of the replies, and to 0 in all other replies. Only in the
    replies with 1, the row gets a remainder: its own remainder ÷ 0.3. So the average over many replies is right. The
    rows with a core power of at least 1 get the rest of the sum, so that the sum is right in each reply.
    """
    moved = np.where(has_core, rest / np.clip(core, 1e-12, 1.0), 0.0)
    large = rest * (has_core & (core >= 1))
    if (total := large.sum()) > 0:
        moved += large * max((rest.sum() - moved.sum()) / total, -1.0)
    return moved


def _carried(exact: FloatArray, start: float) -> FloatArray:
    """Round down the values of a component. Add what was removed from a row to the next row.

    `start`, a number from 0 to 1, is added to the first row.
    """
    rounded: FloatArray = exact.cumsum()
    rounded += start
    np.floor(rounded, out=rounded)
    rounded[1:] -= rounded[:-1].copy()  # `np.diff` with `prepend` would take four times as long
    return rounded


def _start(component: str, turn: int) -> float:
    return (0.5 + turn * _STEPS.get(component, _STEPS["package"])) % 1.0
