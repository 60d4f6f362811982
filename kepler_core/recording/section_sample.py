"""Choose a random sample of the sections of observations.

A section has the samples of one node in ten minutes. The choice does not depend on the parts in which the observations
are added. Sections of one node with similar load form a stratum, and are ordered by a hash. For a section, let p be the
number of rows of all earlier sections of the stratum, w the section's own number of rows, and u a second hash between 0
and 1. The section is kept if p + u · w < T. T is the largest number of rows per stratum with which all strata together
have `max_rows` rows. With more sections, p can only increase and T can only decrease. So a section that is dropped
early would also be dropped at the end.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.errors import RecordingError
from kepler_core.hashes import Hashes, mixed
from kepler_core.recording.counts import Counts
from kepler_core.recording.observations import Observations
from kepler_core.recording.section_join import joined, section_number, sections_of, taken
from kepler_core.vocabulary import LOAD_FEATURES

Stratum = tuple[str, str, int]
"""Key of a stratum (sections with similar load): node, load feature, and logarithm of the load to base 2."""

_NONE_DROPPED = 2**64 - 1
_IDLE = -1000
_BUFFERED = 1.5
"""If the sample has more than this multiple of `max_rows` rows, some of its sections are dropped."""


class SectionSample:
    """Collects observations, and keeps sections with about `max_rows` rows in total."""

    def __init__(self, max_rows: int, seed: int) -> None:
        self.max_rows = max_rows
        self.seed = seed
        self.counts = Counts()
        self.n_samples = 0
        """Number of samples (a node at a timestamp) that were added, including samples that were dropped later."""
        self._spans: dict[str, dict[str, tuple[float, float]]] = {}
        self._strata: dict[Stratum, int] = {}
        self._totals: list[int] = []
        self._lowest_dropped: list[int] = []
        self._pieces: list[Observations] = []
        self._columns: list[tuple[IntArray, Hashes, FloatArray, IntArray]] = []
        """For each element of `_pieces`, four arrays: stratum, hash, u (second hash) and rows of each section."""

    def add(self, observations: Observations, start: float = -math.inf, end: float = math.inf) -> None:
        """Collect the samples in `observations` from the time `start` to the time `end`, which is not included.

        The times are in Unix seconds.
        """
        self.counts.add(observations.counts)
        inside = (observations.sample_time >= start) & (observations.sample_time < end)
        piece = taken(observations, inside)
        if not len(piece.sample_time):
            return
        self._note_spans(piece)
        self.n_samples += len(piece.sample_time)
        section = sections_of(piece)
        n = int(section[-1]) + 1
        first = np.searchsorted(section, np.arange(n))
        weight = np.bincount(section, minlength=n) + np.bincount(section[piece.row_sample], minlength=n)
        stream = piece.sample_stream[first]
        hashes = self._hashes(piece, stream, section_number(piece.sample_time[first]))
        stratum = np.array(
            [self._stratum(key) for key in _strata(piece, section, stream)],
            dtype=np.int64,
        )
        for code, rows in zip(stratum.tolist(), weight.tolist(), strict=True):
            self._totals[code] += rows
        self._append(piece, (stratum, hashes, _uniform(hashes), weight))

    def merge(self, other: SectionSample) -> None:
        """Add the contents of another `SectionSample` that has the same `max_rows` and `seed`."""
        self.counts.add(other.counts)
        self.n_samples += other.n_samples
        for node, of_node in other._spans.items():
            for recording, span in of_node.items():
                self._note_span(node, recording, span)
        codes = np.array([self._stratum(key) for key in other._strata], dtype=np.int64)
        for code, total, lowest in zip(codes.tolist(), other._totals, other._lowest_dropped, strict=True):
            self._totals[code] += total
            self._lowest_dropped[code] = min(self._lowest_dropped[code], lowest)
        for piece, (stratum, hashes, uniform, weight) in zip(other._pieces, other._columns, strict=True):
            self._append(piece, (codes[stratum], hashes, uniform, weight))

    @property
    def rows_per_stratum(self) -> float:
        """The number of rows that each stratum may have (T in the formula); infinity if all rows are kept."""
        if sum(self._totals) <= self.max_rows:
            return math.inf
        totals = sorted(self._totals)
        remaining = self.max_rows
        for at, total in enumerate(totals):
            share = remaining / (len(totals) - at)
            if total > share:
                return share
            remaining -= total
        return math.inf

    def reduce(self, limit: float = math.inf) -> None:
        """Drop the sections that cannot be in the final sample.

        `limit` is an upper limit of the number of rows per stratum, if it is known.
        """
        if not self._pieces:
            return
        stratum, hashes, uniform, weight = (np.concatenate(c) for c in zip(*self._columns, strict=True))
        order = np.lexsort((hashes, stratum))
        before = np.empty(len(order), dtype=np.int64)
        ordered = np.cumsum(weight[order]) - weight[order]
        firsts = np.searchsorted(stratum[order], stratum[order])
        before[order] = ordered - ordered[firsts]
        lowest = np.array(self._lowest_dropped, dtype=np.uint64)
        kept = (before + uniform * weight < min(self.rows_per_stratum, limit)) & (hashes < lowest[stratum])
        np.minimum.at(lowest, stratum[~kept], hashes[~kept])
        self._lowest_dropped = lowest.tolist()
        pieces, columns = self._pieces, self._columns
        self._pieces, self._columns = [], []
        start = 0
        for piece, of_piece in zip(pieces, columns, strict=True):
            chosen: BoolArray = kept[start : start + len(of_piece[0])]
            start += len(of_piece[0])
            if chosen.any():
                whole = chosen.all()
                self._pieces.append(piece if whole else taken(piece, chosen[sections_of(piece)]))
                self._columns.append(tuple(column[chosen] for column in of_piece))  # type: ignore[arg-type]

    def observations(self, digests: Sequence[str]) -> Observations:
        """Return the observations of the kept sections; `digests` are the recordings' digests, in order.

        Raises `RecordingError` if two recordings contain the same node at the same time.
        """
        self._refuse_overlaps()
        self.reduce()
        return joined(self._pieces, self.counts, "+".join(dict.fromkeys(digests)))

    def _append(self, piece: Observations, columns: tuple[IntArray, Hashes, FloatArray, IntArray]) -> None:
        self._pieces.append(piece)
        self._columns.append(columns)
        if sum(int(weight.sum()) for *_, weight in self._columns) > _BUFFERED * self.max_rows:
            self.reduce()

    def _stratum(self, key: Stratum) -> int:
        code = self._strata.setdefault(key, len(self._totals))
        if code == len(self._totals):
            self._totals.append(0)
            self._lowest_dropped.append(_NONE_DROPPED)
        return code

    def _hashes(self, piece: Observations, stream: IntArray, number: FloatArray) -> Hashes:
        texts = [f"{self.seed}\0{s.node}".encode(errors="surrogatepass") for s in piece.streams]
        of_nodes = [int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) for text in texts]
        return _mixed(np.array(of_nodes, dtype=np.uint64)[stream] ^ _mixed(number.astype(np.int64).astype(np.uint64)))

    def _note_spans(self, piece: Observations) -> None:
        used, first = np.unique(piece.sample_stream, return_index=True)
        last = np.append(first[1:], len(piece.sample_time)) - 1
        firsts, lasts = piece.sample_time[first].tolist(), piece.sample_time[last].tolist()
        for code, begin, end in zip(used.tolist(), firsts, lasts, strict=True):
            self._note_span(piece.streams[code].node, piece.streams[code].recording, (begin, end))

    def _note_span(self, node: str, recording: str, span: tuple[float, float]) -> None:
        of_node = self._spans.setdefault(node, {})
        begin, end = of_node.get(recording, span)
        of_node[recording] = min(begin, span[0]), max(end, span[1])

    def _refuse_overlaps(self) -> None:
        for node, of_node in self._spans.items():
            in_order = sorted((span, recording) for recording, span in of_node.items())
            for (span, recording), (later, other) in pairwise(in_order):
                if later[0] <= span[1]:
                    raise RecordingError(
                        f"{recording} and {other} both hold node {node!r} at the same time; "
                        "its samples would count double"
                    )


def _strata(piece: Observations, section: IntArray, stream: IntArray) -> list[Stratum]:
    """Return the stratum of each section: node, load feature and level of load.

    `stream` has the stream of each section, shape (sections,).
    """
    n = len(stream)
    name = np.full(n, -1)
    level = np.full(n, _IDLE)
    for at, feature in enumerate(LOAD_FEATURES):
        values = piece.node_features.get(feature)
        if values is None:
            continue
        known = np.isfinite(values)
        sums = np.bincount(section[known], weights=values[known], minlength=n)
        n_known = np.bincount(section[known], minlength=n)
        missing = (name < 0) & (n_known > 0)
        means = sums / np.maximum(n_known, 1)
        works = missing & (means > 0)
        level[works] = np.floor(np.log2(means[works])).astype(np.int64)
        name[missing] = at
    names = ["" if at < 0 else LOAD_FEATURES[at] for at in name.tolist()]
    nodes = [piece.streams[code].node for code in stream.tolist()]
    return list(zip(nodes, names, level.tolist(), strict=True))


def _mixed(values: Hashes) -> Hashes:
    """Return the output of the random number generator SplitMix64 after each value."""
    return mixed(values + np.uint64(0x9E3779B97F4A7C15))


def _uniform(hashes: Hashes) -> FloatArray:
    """Return a second hash for each hash, from 0 (inclusive) to 1 (exclusive). Their order is another one."""
    return (_mixed(hashes) >> np.uint64(11)).astype(np.float64) / 2.0**53
