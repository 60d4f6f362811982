"""Test that calculations for many nodes at once (one row per node) give the same results as for single nodes."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kepler_core.arrays import FloatArray
from kepler_core.recording.contradictions import _usual_power
from kepler_core.recording.node_rows import MAX_CELLS, node_rows, row_medians, row_quantiles

nodes = st.lists(
    arrays(np.float64, st.integers(1, 130), elements=st.floats(0, 2.0**64) | st.sampled_from([0.0, 1.0, 5.0])),
    min_size=1,
    max_size=6,
)


def matrix(rows: list[FloatArray], filler: float) -> FloatArray:
    cells = np.full((len(rows), max(map(len, rows))), filler)
    for at, row in enumerate(rows):
        cells[at, : len(row)] = row
    return cells


@given(nodes, st.sampled_from([0.05, 0.1, 0.5, 0.95, 0.99, 1.0]))
def test_medians_and_quantiles_are_those_of_numpy(rows: list[FloatArray], quantile: float) -> None:
    lengths = np.array([len(row) for row in rows])
    ascending = np.sort(matrix(rows, np.inf), axis=1)
    np.testing.assert_array_equal(row_medians(ascending, lengths), [np.median(row) for row in rows])
    expected = [np.quantile(row, quantile) for row in rows]
    np.testing.assert_array_equal(row_quantiles(ascending, lengths, quantile), expected)


@given(
    st.lists(arrays(np.float64, st.integers(20, 130), elements=st.floats(0, 1e6)), min_size=1, max_size=5), st.data()
)
def test_usual_power_is_interpolated_between_medians_of_bins(usage: list[FloatArray], data: st.DataObject) -> None:
    power = [data.draw(arrays(np.float64, len(row), elements=st.floats(0, 1e3))) for row in usage]
    lengths = np.array([len(row) for row in usage])
    x, y = matrix(usage, np.inf), matrix(power, np.inf)
    usual = _usual_power(x, y, np.argsort(x, axis=1, kind="stable"), lengths)
    for at, (of_x, of_y) in enumerate(zip(usage, power, strict=True)):
        bins = np.array_split(np.argsort(of_x, kind="stable"), min(20, len(of_x) // 5))
        centers, levels = ([np.median(values[of_bin]) for of_bin in bins] for values in (of_x, of_y))
        np.testing.assert_array_equal(usual[at, : len(of_x)], np.interp(of_x, centers, levels))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 10), st.data())
def test_each_chosen_sample_is_in_the_row_of_its_stream(lengths: list[int], fewest: int, data: st.DataObject) -> None:
    stream = np.repeat(np.arange(len(lengths)), lengths)
    chosen = data.draw(arrays(np.bool_, len(stream)))
    values = np.arange(len(stream), dtype=np.float64)
    rows_of_stream = {}
    for rows in node_rows(chosen, stream, len(lengths), fewest):
        cells = rows.of(values, -1.0)
        assert (np.count_nonzero(cells < 0, axis=1) == cells.shape[1] - rows.lengths).all()
        for number, cells_of_row in zip(rows.streams.tolist(), cells, strict=True):
            assert number not in rows_of_stream
            rows_of_stream[number] = cells_of_row[cells_of_row >= 0]
    for number in range(len(lengths)):
        expected = values[chosen & (stream == number)]
        if len(expected) < fewest:
            assert number not in rows_of_stream
        else:
            np.testing.assert_array_equal(rows_of_stream[number], expected)


def test_matrices_of_many_streams_are_bounded() -> None:
    lengths = np.concatenate([np.full(2000, 100), [MAX_CELLS + 1], np.arange(1, 500)])
    stream = np.repeat(np.arange(len(lengths)), lengths)
    matrices = list(node_rows(np.ones(len(stream), dtype=bool), stream, len(lengths), 1))
    assert sum(len(rows.streams) for rows in matrices) == len(lengths)
    assert all(rows.samples.size <= 1.25 * MAX_CELLS for rows in matrices if len(rows.streams) > 1)
    assert len(matrices) < 60
