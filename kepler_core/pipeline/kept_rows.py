"""Rows of the training data that are stored in the pipeline, so that models can be recalibrated without the recordings.

The rows come directly from the observations: they are not smoothed, and have no features that an extractor adds.

The file `samples/<node type>.json.gz` of a pipeline holds features and power of nodes at some of the timestamps of the
training. `kepler-model recalibrate` mixes these rows with the rows of a new recording.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from typing import Annotated

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.deadlines import TooLargeError
from kepler_core.documents import MAX_NUMBER, DocumentError, decode_json
from kepler_core.errors import StoreError
from kepler_core.gzip_files import GzipError, unpacked
from kepler_core.pipeline.rows import evenly
from kepler_core.recording.observations import Observations

FOLDER = "samples"
MAX_ROWS = 2000
MAX_COLUMNS = 1000
MAX_BYTES = 64 * 2**20
"""Maximum size of the unpacked file. A training writes at most 2,000 rows."""

Amount = Annotated[float, msgspec.Meta(ge=0, le=float(MAX_NUMBER))]
Column = Annotated[list[Amount | None], msgspec.Meta(max_length=MAX_ROWS)]
Columns = Annotated[dict[str, Column], msgspec.Meta(max_length=MAX_COLUMNS)]

StreamNumber = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a file with stored rows. Numbers have six significant digits; null stands for an unknown value."""

    time: Annotated[list[Amount], msgspec.Meta(max_length=MAX_ROWS)]
    stream: Annotated[list[StreamNumber], msgspec.Meta(max_length=MAX_ROWS)]
    features: Columns
    power: Columns


@attrs.frozen(eq=False)
class NodeRows:
    """Rows that each hold the features and the power of one node at one timestamp. NaN stands for an unknown value."""

    time: FloatArray
    """Unix seconds, shape (rows,)."""
    stream: IntArray
    """Number of the stream (a node in a recording) of each row, shape (rows,)."""
    features: Mapping[str, FloatArray]
    """Values by feature, each of shape (rows,)."""
    power: Mapping[str, FloatArray]
    """Watts by `<energy source>/<component>`, each of shape (rows,)."""

    def complete(self, features: Sequence[str], power: Sequence[str]) -> NodeRows | None:
        """Return the rows in which all named features and powers are known; None if a named column is missing."""
        if not (set(features) <= self.features.keys() and set(power) <= self.power.keys()):
            return None
        columns = [*(self.features[name] for name in features), *(self.power[name] for name in power)]
        rows = np.logical_and.reduce([np.isfinite(column) for column in columns])
        kept = NodeRows(
            self.time,
            self.stream,
            {name: self.features[name] for name in features},
            {name: self.power[name] for name in power},
        )
        return kept._chosen(np.flatnonzero(rows))

    def thinned(self, most: int) -> NodeRows:
        """Return at most `most` of the rows, evenly spaced."""
        return self._chosen(evenly(len(self.time), most))

    def _chosen(self, rows: IntArray) -> NodeRows:
        return NodeRows(
            self.time[rows],
            self.stream[rows],
            {name: values[rows] for name, values in self.features.items()},
            {name: watts[rows] for name, watts in self.power.items()},
        )


def kept_rows_file(node_type: int) -> str:
    """Return the path of the file with the stored rows of a node type, relative to the pipeline's folder."""
    return f"{FOLDER}/{node_type}.json.gz"


def node_rows(observations: Observations) -> NodeRows:
    """Return a row for each sample in which the power of at least one component of the node is known."""
    known = np.logical_or.reduce([np.isfinite(watts) for watts in observations.power.values()] or [np.zeros(0, bool)])
    return NodeRows(
        observations.sample_time[known],
        observations.sample_stream[known],
        {name: values[known] for name, values in observations.node_features.items()},
        {f"{source}/{component}": watts[known] for (source, component), watts in observations.power.items()},
    )


def write_kept_rows(observations: Observations, most: int) -> bytes:
    """Return a file with rows of the training data, as bytes.

    The file has at most `most` rows. They are evenly spaced over all samples with known power.
    """
    rows = node_rows(observations).thinned(most)
    document = _Document(
        [float(time) for time in rows.time],
        [int(stream) for stream in rows.stream],
        {name: _shortened(values) for name, values in sorted(rows.features.items())},
        {name: _shortened(values) for name, values in sorted(rows.power.items())},
    )
    return gzip.compress(msgspec.json.encode(document), mtime=0)


def _shortened(values: FloatArray) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]


def read_kept_rows(content: bytes, where: str) -> NodeRows:
    """Return the rows in a file; raise `StoreError` if the file is damaged or too large."""
    try:
        document = decode_json(b"".join(unpacked([content], MAX_BYTES)), _Document)
    except (DocumentError, GzipError, TooLargeError) as error:
        raise StoreError(f"{where}: {error}") from error
    n = len(document.time)
    lengths = {len(column) for column in (*document.features.values(), *document.power.values())}
    if not {len(document.stream), *lengths} <= {n}:
        raise StoreError(f"{where}: the columns do not have equally many rows")
    return NodeRows(
        np.array(document.time, dtype=np.float64),
        np.array(document.stream, dtype=np.int64),
        {name: np.array(column, dtype=np.float64) for name, column in document.features.items()},
        {name: np.array(column, dtype=np.float64) for name, column in document.power.items()},
    )
