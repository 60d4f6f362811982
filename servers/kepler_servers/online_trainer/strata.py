"""What stays in a memory that is full: instants spread over nodes, load, workloads and time.

An instant's stratum is its node, its load (ten bins up to the node's highest) and its workload (instructions
per cycle and cache misses per instruction, by powers of two). Each node, then each of its strata, then each
of sixteen parts of the stratum's time gets an equal share of the room; what one of them does not need goes
to the others. So a week of idle fills the strata of idleness, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray

LOAD_BINS = 10
TIME_PARTS = 16
_ABOVE = 5
"""A node's highest load is what so many instants reach: one wrong sample must not make all others idle."""
_MOST_OCTAVES = 4
_LOADS = ("cpu_instructions", "bpf_cpu_time_ms", "cpu_cycles")
_MIXES = (
    ("cpu_instructions", "cpu_cycles"),
    ("cache_miss", "cpu_instructions"),
    ("bpf_page_cache_hit", "bpf_cpu_time_ms"),
)


def water_fill(counts: IntArray, room: int) -> IntArray:
    """How many of each group stay, so that `room` are there in all and the smallest groups lose least."""
    if counts.sum() <= room:
        return counts.copy()
    low, high = 0, int(counts.max(initial=0))
    while low < high:  # the highest level that still fits
        middle = (low + high + 1) // 2
        if np.minimum(counts, middle).sum() <= room:
            low = middle
        else:
            high = middle - 1
    kept = np.minimum(counts, low)
    more = np.flatnonzero(counts > low)[: room - int(kept.sum())]
    kept[more] += 1
    return kept


def strata(node: IntArray, features: Mapping[str, FloatArray]) -> IntArray:
    """The stratum of each instant, as a number; all of shape (instants,)."""
    n = len(node)
    load_name = next((name for name in _LOADS if name in features and np.isfinite(features[name]).any()), None)
    if load_name is None:
        return np.unique(node, return_inverse=True)[1].astype(np.int64)
    load = np.nan_to_num(features[load_name], nan=0.0)
    bins = np.zeros(n, dtype=np.int64)
    mix = np.zeros(n, dtype=np.int64)
    for code in np.unique(node):
        mine = node == code
        loads = np.sort(load[mine])
        highest = float(loads[-min(_ABOVE, len(loads))])
        if highest > 0:
            bins[mine] = np.clip(np.floor(LOAD_BINS * load[mine] / highest), 0, LOAD_BINS - 1).astype(np.int64)
    for over, under in _MIXES:
        mix *= 2 * _MOST_OCTAVES + 2
        if over in features and under in features:
            mix += _octaves(features[over], features[under])
    mix[bins == 0] = 0  # how little work is mixed says nothing
    return np.unique(np.column_stack([node, bins, mix]), axis=0, return_inverse=True)[1].reshape(n).astype(np.int64)


def _octaves(over: FloatArray, under: FloatArray) -> IntArray:
    known = np.isfinite(over) & np.isfinite(under) & (over > 0) & (under > 0)
    found = np.zeros(len(over), dtype=np.int64)
    if known.any():
        octave = np.round(np.log2(over[known] / under[known]))
        middle = float(np.median(octave))
        found[known] = np.clip(octave - middle, -_MOST_OCTAVES, _MOST_OCTAVES).astype(np.int64) + _MOST_OCTAVES + 1
    return found


def choose(node: IntArray, time: FloatArray, features: Mapping[str, FloatArray], room: int) -> BoolArray:
    """Which instants stay if there is room for `room`; the same for the same instants."""
    kept = np.zeros(len(node), dtype=bool)
    if len(node) <= room:
        kept[:] = True
        return kept
    stratum = strata(node, features)
    _, of_node, node_counts = np.unique(node, return_inverse=True, return_counts=True)
    for at, node_room in enumerate(water_fill(node_counts, room)):
        mine = np.flatnonzero(of_node == at)
        _, group, counts = np.unique(stratum[mine], return_inverse=True, return_counts=True)
        for number, stratum_room in enumerate(water_fill(counts, int(node_room))):
            members = mine[group == number]
            kept[_over_time(members[np.argsort(time[members], kind="stable")], time, int(stratum_room))] = True
    return kept


def _over_time(members: IntArray, time: FloatArray, room: int) -> IntArray:
    """Of instants in order of time so many that lie evenly in time."""
    if len(members) <= room:
        return members
    start, end = time[members[0]], time[members[-1]]
    part = np.zeros(len(members), dtype=np.int64)
    if end > start:
        part = np.minimum((TIME_PARTS * (time[members] - start) / (end - start)).astype(np.int64), TIME_PARTS - 1)
    present, counts = np.unique(part, return_counts=True)
    chosen = []
    for code, part_room in zip(present, water_fill(counts, room), strict=True):
        inside = members[part == code]
        # the middles of equal stretches
        at = np.floor((np.arange(part_room) + 0.5) * (len(inside) / max(int(part_room), 1))).astype(np.int64)
        chosen.append(inside[at])
    return np.concatenate(chosen)
