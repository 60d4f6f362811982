"""Whether a machine needs other power than before for the same work, and how much.

A new kernel, a new power limit or another firmware changes the power law; a new workload does not. The
two are told apart without any model: each recent instant is paired with the instant of the past that is
nearest to it in its features. Where pairs of the same work differ in power, the law has changed, and

    watts now = scale · watts then + offset

is fitted to the pairs. By this the whole memory is brought up to date: what was learnt about workloads
stays. A recent instant with no like in the past says nothing of the law.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.atomic_files import whole_file
from kepler_core.errors import KeplerError
from kepler_core.recording.observations import Observations
from kepler_servers.online_trainer.noise import mean_and_error

RECENT = 400
"""Instants of a node that are compared with what was before them."""
FEWEST_PAIRS = 30
RADIUS = 0.05
"""Instants are alike if no feature differs by more than this part of its usual highest value."""
SMALLEST_CHANGE = 0.05
"""Of the mean power."""
SURE = 4.0
"""Standard errors: the test is made again and again, so it must not be easily fooled."""
SURE_TOO = 2.0
"""Of components beside one whose law has surely changed."""
LEAST_SCALE = 0.5
"""A machine that needs less than half or more than twice the power for the same work is another one."""
_WIDE = 2.0
"""The power of the pairs must spread by this factor for an offset to be told from a scale."""
_HIGHEST = 0.99
_COMPARED = ("cpu_instructions", "cpu_cycles", "cache_miss", "bpf_cpu_time_ms", "bpf_page_cache_hit")


class Line(msgspec.Struct, frozen=True):
    """watts now = scale · watts then + offset."""

    scale: float
    offset: float

    def __call__(self, watts: FloatArray) -> FloatArray:
        return np.maximum(self.scale * watts + self.offset, 0.0)


class LawChange(msgspec.Struct, frozen=True):
    """From a time on, a node needs other power for the same work."""

    node: str
    since: float
    """Unix seconds."""
    lines: dict[str, Line]
    """"<energy source>.<component>" -> how power before becomes power after."""
    pairs: int
    """Pairs of alike instants that say so."""


def changed_watts(observations: Observations, changes: Sequence[LawChange]) -> Observations:
    """The same with all power as it would be under the newest law."""
    if not changes:
        return observations
    power = {key: values.copy() for key, values in observations.power.items()}
    nodes = {stream.node: code for code, stream in enumerate(observations.streams)}
    for change in sorted(changes, key=lambda change: change.since):
        if change.node not in nodes:
            continue
        before = (observations.sample_stream == nodes[change.node]) & (observations.sample_time < change.since)
        for (source, component), values in power.items():
            line = change.lines.get(f"{source}.{component}")
            if line is not None:
                values[before] = line(values[before])
    return attrs.evolve(observations, power=power)


def find_changes(observations: Observations) -> list[LawChange]:
    """Changes of the law among the newest instants of each node; `observations` are sorted by node and
    time, with the power as it would be under the law that is known."""
    found = []
    for code, stream in enumerate(observations.streams):
        mine = np.flatnonzero(observations.sample_stream == code)
        change = _of_node(observations, mine, stream.node)
        if change is not None:
            found.append(change)
    return found


def _of_node(observations: Observations, mine: IntArray, node: str) -> LawChange | None:
    features = [
        name
        for name in _COMPARED
        if name in observations.node_features and np.isfinite(observations.node_features[name][mine]).mean() > 0.5
    ]
    if not features:
        return None
    X = np.column_stack([observations.node_features[name][mine] for name in features])
    known = np.isfinite(X).all(axis=1)
    mine, X = mine[known], X[known]
    recent = min(RECENT, len(mine) // 2)
    if recent < FEWEST_PAIRS:
        return None
    past, new = mine[:-recent], mine[-recent:]
    scale = np.quantile(np.abs(X), _HIGHEST, axis=0)
    X = X / np.where(scale > 0, scale, 1.0)
    like, alike = _nearest(X[:-recent], X[-recent:])
    past, new = past[like[alike]], new[alike]
    if len(new) < FEWEST_PAIRS:
        return None
    apart = X[-recent:][alike] - X[:-recent][like[alike]]
    time = observations.sample_time[new]
    pairs: dict[str, tuple[FloatArray, FloatArray, IntArray]] = {}
    for (source, component), watts in observations.power.items():
        then, now = watts[past], watts[new]
        both = np.flatnonzero(np.isfinite(then) & np.isfinite(now) & (then > 0))
        if len(both) >= FEWEST_PAIRS:
            pairs[f"{source}.{component}"] = then, now, both
    lines: dict[str, Line] = {}
    begins: list[float] = []
    most = 0
    for name, (then, now, both) in pairs.items():
        after = both[_split(now[both] / then[both]) :]
        line = _changed(then[after], now[after], apart[after], SURE)
        if line is not None:
            lines[name] = line
            begins.append(float(time[after[0]]))
            most = max(most, len(after))
    if not lines:
        return None
    since = float(np.median(begins))
    for name, (then, now, both) in pairs.items():
        if name not in lines:
            # the others are noisier, and have hardly kept their law when that one's changed
            after = both[time[both] >= since]
            line = _changed(then[after], now[after], apart[after], SURE_TOO)
            if line is not None:
                lines[name] = line
    return LawChange(node, since, lines, most)


def _changed(then: FloatArray, now: FloatArray, apart: FloatArray, sure: float) -> Line | None:
    """How power differs between pairs; None if it does not, by more than so many standard errors."""
    if len(then) < FEWEST_PAIRS:
        return None
    mean, error, now_alike = _difference(then, now, apart)
    if abs(mean) <= max(sure * error, SMALLEST_CHANGE * float(then.mean())):
        return None
    return _fit(then, now_alike)


def _difference(then: FloatArray, now: FloatArray, apart: FloatArray) -> tuple[float, float, FloatArray]:
    """By how much power differs between pairs, the standard error of that, and the power now as it would
    be with the very features of then.

    Pairs are alike, not equal: what their remaining differences in features (shape (pairs, features))
    explain is taken out by least squares. Where all pairs differ to the same side that cannot be told
    from a change of the law, and the error is large.
    """
    design = np.column_stack([np.ones(len(then)), apart])
    difference = now - then
    found, _, rank, _ = np.linalg.lstsq(design, difference, rcond=1e-8)
    rest = difference - design @ found
    free = max(len(then) - int(rank), 1)
    variance = float(rest @ rest) / free
    covariance = np.linalg.pinv(design.T @ design) * variance
    plain = float(np.sqrt(variance / len(then)))
    _, of_blocks = mean_and_error(rest)
    # neighbours in time are nearly copies: there are fewer independent pairs than pairs
    inflated = max(1.0, of_blocks / plain) if plain > 0 and np.isfinite(of_blocks) else 1.0
    return float(found[0]), float(np.sqrt(max(covariance[0, 0], 0.0))) * inflated, now - apart @ found[1:]


def _nearest(past: FloatArray, new: FloatArray) -> tuple[IntArray, BoolArray]:
    """For each new row the nearest past one, and whether that is near enough."""
    from scipy.spatial import cKDTree

    distance, at = cKDTree(past).query(new, p=np.inf, distance_upper_bound=RADIUS)
    alike = np.isfinite(distance)
    return np.where(alike, at, 0).astype(np.int64), alike


def _split(ratio: FloatArray) -> int:
    """From where on the ratios are of another level than before; 0 if they are all of one."""
    n = len(ratio)
    total, squares = np.cumsum(ratio), np.cumsum(ratio**2)
    at = np.arange(1, n)
    left = squares[:-1] - total[:-1] ** 2 / at
    right = (squares[-1] - squares[:-1]) - (total[-1] - total[:-1]) ** 2 / (n - at)
    whole = squares[-1] - total[-1] ** 2 / n
    usable = (at >= FEWEST_PAIRS // 3) & (n - at >= FEWEST_PAIRS)
    if not usable.any() or whole <= 0:
        return 0
    cost = np.where(usable, left + right, np.inf)
    best = int(np.argmin(cost))
    # a level shift explains much of what varies; noise alone is not explained by any split
    return int(at[best]) if cost[best] < 0.7 * whole else 0


def _fit(then: FloatArray, now: FloatArray) -> Line | None:
    """The line through pairs, outliers left out; None for one that no machine would follow."""
    kept = np.ones(len(then), dtype=bool)
    line = None
    for _ in range(2):
        x, y = then[kept], now[kept]
        low, high = np.quantile(x, [0.1, 0.9])
        slope, offset = float(y.mean() / x.mean()), 0.0
        if high > _WIDE * low:
            steep, shift = np.polyfit(x, y, 1)
            # both power measurements are noisy, which makes a fitted slope too flat: it must explain more
            better = np.sum((y - steep * x - shift) ** 2) < 0.8 * np.sum((y - slope * x) ** 2)
            if better and LEAST_SCALE < steep < 1 / LEAST_SCALE:
                slope, offset = float(steep), float(shift)
        if not LEAST_SCALE < slope < 1 / LEAST_SCALE:
            return None
        line = Line(slope, offset)
        off = np.abs(now - line(then))
        kept = off <= 3 * 1.4826 * np.median(off) + 1e-9
        if kept.sum() < FEWEST_PAIRS:
            break
    return line


# --- on the disk ---


class _Laws(msgspec.Struct):
    changes: list[LawChange]


class LawBook:
    """The law changes that are known, in one file that is there as a whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def changes(self) -> list[LawChange]:
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Laws).changes
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            raise KeplerError(f"{self.path} cannot be read: {getattr(error, 'strerror', None) or error}") from error

    def add(self, changes: Sequence[LawChange]) -> None:
        """Keep changes with those that are known."""
        content = msgspec.json.format(msgspec.json.encode(_Laws([*self.changes(), *changes])), indent=1)
        try:
            with whole_file(self.path) as file:
                file.write(content + b"\n")
        except OSError as error:
            raise KeplerError(f"cannot write {self.path}: {error.strerror or error}") from error


def of_node_type(changes: Sequence[LawChange], nodes: Sequence[str]) -> Mapping[str, Line] | None:
    """One line per power for all nodes of a kind; None where they do not agree (within the smallest
    change that counts), so that no one line is right."""
    by_node = {change.node: change.lines for change in changes}
    keys = sorted({key for lines in by_node.values() for key in lines})
    pooled = {}
    for key in keys:
        lines = [by_node.get(node, {}).get(key, Line(1.0, 0.0)) for node in nodes]
        scales = [line.scale for line in lines]
        if max(scales) - min(scales) > 2 * SMALLEST_CHANGE:
            return None
        pooled[key] = Line(float(np.mean(scales)), float(np.mean([line.offset for line in lines])))
    return pooled or None
