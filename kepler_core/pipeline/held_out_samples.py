"""Held-out samples that are stored with a model, so that models can be compared without the recordings.

The file `held_out.json.gz` in a model's folder has the measured power of at most `MAX_SAMPLES` samples. It also has
predictions for these samples, made by models that were not trained on them. A recalibrated model has no such file,
because the corrected model would have predicted other watts.

A sample is stored if the hash of its node and time is among the lowest. So two trainings on the same or on overlapping
recordings store mostly the same samples (bottom-k sampling: E. Cohen and H. Kaplan, "Summarizing Data using Bottom-k
Sketches", 2007). Their models can then be compared sample by sample.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping, Sequence
from typing import Annotated

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.deadlines import TooLargeError
from kepler_core.documents import MAX_NUMBER, DocumentError, Text, decode_json
from kepler_core.errors import StoreError
from kepler_core.gzip_files import GzipError, unpacked
from kepler_core.hashes import mixed
from kepler_core.honesty.document import SplitName
from kepler_core.models.power_model import HELD_OUT_FILE
from kepler_core.pipeline.evidence import Evidence
from kepler_core.pipeline.fit import FitResult

MAX_SAMPLES = 200
"""Maximum number of samples that a training stores with each model."""
MAX_BYTES = 2 * 2**20
"""Maximum size of the unpacked file. A training writes less than 50 kB."""

_MAX_ROWS = 2000
_MAX_COLUMNS = 100
_Amount = Annotated[float, msgspec.Meta(ge=-float(MAX_NUMBER), le=float(MAX_NUMBER))]
_Watts = Annotated[list[_Amount | None], msgspec.Meta(max_length=_MAX_ROWS)]
_Components = Annotated[dict[Text, _Watts], msgspec.Meta(max_length=_MAX_COLUMNS)]
_NodeNumber = Annotated[int, msgspec.Meta(ge=0, le=_MAX_ROWS)]


class _Document(msgspec.Struct, forbid_unknown_fields=True):
    """The content of `held_out.json.gz`.

    Watts have four significant digits; null stands for a sample that was not tested.
    """

    node_names: Annotated[list[Text], msgspec.Meta(max_length=_MAX_ROWS)]
    time: Annotated[list[_Amount], msgspec.Meta(max_length=_MAX_ROWS)]
    node: Annotated[list[_NodeNumber], msgspec.Meta(max_length=_MAX_ROWS)]
    measured: _Components
    predicted: Annotated[dict[SplitName, _Components], msgspec.Meta(max_length=_MAX_COLUMNS)]


@attrs.frozen(eq=False)
class HeldOutSamples:
    """Held-out samples of one model. A sample is a node at a timestamp. NaN stands for a sample that was not tested."""

    node_names: tuple[str, ...]
    time: FloatArray
    """Unix seconds, shape (samples,)."""
    node: IntArray
    """For each sample, the index of its node in `node_names`, shape (samples,)."""
    measured: Mapping[str, FloatArray]
    """Measured watts by component, each of shape (samples,). For DynPower, this is the dynamic power of the node."""
    predicted: Mapping[SplitName, Mapping[str, FloatArray]]
    """Predicted watts by split and component, each of shape (samples,)."""

    @property
    def keys(self) -> list[tuple[str, float]]:
        """The node and the time of each sample."""
        return [(self.node_names[node], time) for node, time in zip(self.node, self.time.tolist(), strict=True)]

    def subset(self, rows: IntArray) -> HeldOutSamples:
        """Return the samples with the indices `rows`."""
        return HeldOutSamples(
            self.node_names,
            self.time[rows],
            self.node[rows],
            {name: watts[rows] for name, watts in self.measured.items()},
            {
                split: {name: watts[rows] for name, watts in of_split.items()}
                for split, of_split in self.predicted.items()
            },
        )


def with_held_out_samples(results: Sequence[FitResult], evidence: Mapping[int, Evidence], most: int) -> list[FitResult]:
    """Add the file `held_out.json.gz` to each result that has evidence, and return all results.

    `evidence` maps the index of a result to its evidence. A file has at most `most` samples. If `most` is 0, no files
    are added.
    """
    return [
        attrs.evolve(result, files={**(result.files or {}), HELD_OUT_FILE: _file(_chosen(evidence[at], most))})
        if most and at in evidence
        else result
        for at, result in enumerate(results)
    ]


def read_held_out_samples(content: bytes, where: str) -> HeldOutSamples:
    """Return the samples in a file; raise `StoreError` if the file is damaged or too large."""
    try:
        document = decode_json(b"".join(unpacked([content], MAX_BYTES)), _Document)
    except (DocumentError, GzipError, TooLargeError) as error:
        raise StoreError(f"{where}: {error}") from error
    columns = [document.measured, *document.predicted.values()]
    lengths = {len(document.node), *(len(watts) for column in columns for watts in column.values())}
    if not lengths <= {len(document.time)}:
        raise StoreError(f"{where}: the columns do not have equally many samples")
    if any(number >= len(document.node_names) for number in document.node):
        raise StoreError(f"{where}: a node has no name")
    return HeldOutSamples(
        tuple(document.node_names),
        np.array(document.time, dtype=np.float64),
        np.array(document.node, dtype=np.int64),
        _arrays(document.measured),
        {split: _arrays(of_split) for split, of_split in document.predicted.items()},
    )


def _arrays(columns: Mapping[str, list[float | None]]) -> dict[str, FloatArray]:
    return {name: np.array(watts, dtype=np.float64) for name, watts in columns.items()}


def _chosen(evidence: Evidence, most: int) -> HeldOutSamples:
    """Return at most `most` of the samples that at least one split has tested, in order of node and time."""
    tested = np.zeros(len(evidence.time), dtype=bool)
    for of_split in evidence.held_out.values():
        tested |= np.logical_and.reduce([np.isfinite(watts) for watts in of_split.values()])
    names = tuple(map(str, evidence.node_names))
    rows = np.flatnonzero(tested)
    lowest = rows[np.argsort(_hashes(names, evidence.node[rows], evidence.time[rows]), kind="stable")[:most]]
    every = HeldOutSamples(names, evidence.time, evidence.node, evidence.measured, evidence.held_out)
    chosen = every.subset(np.sort(lowest))
    used, node = np.unique(chosen.node, return_inverse=True)
    return attrs.evolve(chosen, node_names=tuple(names[at] for at in used), node=node.reshape(len(chosen.node)))


def _hashes(names: tuple[str, ...], node: IntArray, time: FloatArray) -> FloatArray:
    """Return a number for each sample that depends only on the name of its node and on its time."""
    of_node = np.array([zlib.crc32(name.encode("utf-8", "replace")) for name in names], dtype=np.uint64)
    keys = (of_node[node] << np.uint64(32)) ^ np.round(time * 1000).astype(np.int64).astype(np.uint64)
    return mixed(keys).astype(np.float64)


def _file(samples: HeldOutSamples) -> bytes:
    document = _Document(
        list(samples.node_names),
        samples.time.tolist(),
        samples.node.tolist(),
        {name: _shortened(watts) for name, watts in samples.measured.items()},
        {
            split: {name: _shortened(watts) for name, watts in of_split.items()}
            for split, of_split in samples.predicted.items()
        },
    )
    return gzip.compress(msgspec.json.encode(document), mtime=0)


def _shortened(values: FloatArray) -> list[float | None]:
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values]
