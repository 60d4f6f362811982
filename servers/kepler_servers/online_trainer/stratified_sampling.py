"""Choose the samples that a full sample store keeps, spread over nodes, load, workloads and time.

The samples of a stratum have the same node, load bin and workload. The load is divided into ten bins up to the node's
highest load. The workload is described by ratios of features, such as instructions per cycle and cache misses per
instruction. The ratios are rounded to powers of two.

The capacity of the store is divided evenly among the nodes, then among the strata of each node, then among sixteen time
slices of each stratum. If a group has fewer samples than its equal part of the capacity, the rest of this part is
divided among the larger groups. Therefore a week of idle machines fills only the idle strata.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray

LOAD_BINS = 10
TIME_SLICES = 16
_HIGHEST_LOAD_RANK = 5
"""The load with this rank (1 is the highest) counts as a node's highest load.

If the highest load itself were used, a single outlier could move all other samples into the bin of idle samples.
"""
_MAX_OCTAVES = 4
"""Exponent of the limits of a ratio of two features: 2^-4 to 2^4 times the median of the ratio."""
_LOAD_FEATURES = ("cpu_instructions", "bpf_cpu_time_ms", "cpu_cycles")
_WORKLOAD_RATIOS = (
    ("cpu_instructions", "cpu_cycles"),
    ("cache_miss", "cpu_instructions"),
    ("bpf_page_cache_hit", "bpf_cpu_time_ms"),
)


def water_fill(counts: IntArray, capacity: int) -> IntArray:
    """Divide a capacity among groups. Return the number of members to keep in each group.

    `counts` has the number of members of each group. All groups have the same maximum number of members, which is as
    high as the capacity allows. A smaller group keeps all its members.
    """
    if counts.sum() <= capacity:
        return counts.copy()
    low, high = 0, int(counts.max(initial=0))
    while low < high:  # bisection: find the largest maximum per group that fits into the capacity
        middle = (low + high + 1) // 2
        if np.minimum(counts, middle).sum() <= capacity:
            low = middle
        else:
            high = middle - 1
    quotas = np.minimum(counts, low)
    larger = np.flatnonzero(counts > low)[: capacity - int(quotas.sum())]
    quotas[larger] += 1
    return quotas


def assign_strata(node: IntArray, features: Mapping[str, FloatArray]) -> IntArray:
    """Return the stratum number of each sample. Samples with equal node, load bin and workload have equal numbers.

    All arrays have the shape (samples,).
    """
    n = len(node)
    load_name = next((name for name in _LOAD_FEATURES if name in features and np.isfinite(features[name]).any()), None)
    if load_name is None:
        return np.unique(node, return_inverse=True)[1].astype(np.int64)
    load = np.nan_to_num(features[load_name], nan=0.0)
    load_bin = np.zeros(n, dtype=np.int64)
    workload = np.zeros(n, dtype=np.int64)
    for code in np.unique(node):
        of_node = node == code
        loads = np.sort(load[of_node])
        highest = float(loads[-min(_HIGHEST_LOAD_RANK, len(loads))])
        if highest > 0:
            bins = np.floor(LOAD_BINS * load[of_node] / highest)
            load_bin[of_node] = np.clip(bins, 0, LOAD_BINS - 1).astype(np.int64)
    for numerator, denominator in _WORKLOAD_RATIOS:
        workload *= 2 * _MAX_OCTAVES + 2
        if numerator in features and denominator in features:
            workload += _octaves(features[numerator], features[denominator])
    workload[load_bin == 0] = (
        0  # all idle samples get one workload, because ratios of features of an idle node carry no information
    )
    columns = np.column_stack([node, load_bin, workload])
    return np.unique(columns, axis=0, return_inverse=True)[1].reshape(n).astype(np.int64)


def _octaves(numerator: FloatArray, denominator: FloatArray) -> IntArray:
    """Return the ratio numerator / denominator of each sample as a small integer, on a logarithmic scale.

    The median ratio gives `_MAX_OCTAVES` + 1. Each doubling of the ratio adds 1, and each halving subtracts 1. Results
    are limited to 1 … 2 · `_MAX_OCTAVES` + 1. If the ratio is undefined, the result is 0.
    """
    defined = np.isfinite(numerator) & np.isfinite(denominator) & (numerator > 0) & (denominator > 0)
    octaves = np.zeros(len(numerator), dtype=np.int64)
    if defined.any():
        octave = np.round(np.log2(numerator[defined] / denominator[defined]))
        offset = np.clip(octave - float(np.median(octave)), -_MAX_OCTAVES, _MAX_OCTAVES)
        octaves[defined] = offset.astype(np.int64) + _MAX_OCTAVES + 1
    return octaves


def select_samples(node: IntArray, time: FloatArray, features: Mapping[str, FloatArray], capacity: int) -> BoolArray:
    """Choose at most `capacity` samples to keep, and return a mask of shape (samples,). The choice is deterministic."""
    selected = np.zeros(len(node), dtype=bool)
    if len(node) <= capacity:
        selected[:] = True
        return selected
    strata = assign_strata(node, features)
    _, node_code, node_counts = np.unique(node, return_inverse=True, return_counts=True)
    for code, node_quota in enumerate(water_fill(node_counts, capacity)):
        of_node = np.flatnonzero(node_code == code)
        _, group, counts = np.unique(strata[of_node], return_inverse=True, return_counts=True)
        for number, quota in enumerate(water_fill(counts, int(node_quota))):
            members = of_node[group == number]
            in_order = members[np.argsort(time[members], kind="stable")]
            selected[_spread_over_time(in_order, time, int(quota))] = True
    return selected


def _spread_over_time(members: IntArray, time: FloatArray, quota: int) -> IntArray:
    """Choose `quota` of the members, spread evenly over time.

    `members` has the indices of samples, sorted by time. The result has some of these indices.
    """
    if len(members) <= quota:
        return members
    start, end = time[members[0]], time[members[-1]]
    slice_of = np.zeros(len(members), dtype=np.int64)
    if end > start:
        position = (time[members] - start) / (end - start)
        slice_of = np.minimum((TIME_SLICES * position).astype(np.int64), TIME_SLICES - 1)
    slices, counts = np.unique(slice_of, return_counts=True)
    selected = []
    for number, slice_quota in zip(slices, water_fill(counts, quota), strict=True):
        inside = members[slice_of == number]
        # divide the samples of the time slice into parts of equal size, and keep the middle sample of each part
        middles = (np.arange(slice_quota) + 0.5) * (len(inside) / max(int(slice_quota), 1))
        selected.append(inside[np.floor(middles).astype(np.int64)])
    return np.concatenate(selected)
