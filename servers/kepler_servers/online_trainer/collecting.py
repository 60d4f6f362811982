"""Collect the new samples of one fetch from the observations of groups of nodes, with bounded memory.

A fleet of thousands of nodes has more samples in one fetch than the sample store may hold. Then a part of the samples
is collected. Each sample has a rank, a number from 0 to 1 that depends only on its node and time. Samples below a
maximum rank are collected, and the maximum is halved whenever the samples exceed the limit. So the choice is random,
it does not depend on the order of the groups, and a later fetch of the same time range chooses the same samples.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from kepler_core.arrays import FloatArray, IntArray
from kepler_core.hashes import mixed
from kepler_core.recording.observations import Observations
from kepler_servers.online_trainer import sample_table
from kepler_servers.online_trainer.sample_store import AppendResult, SampleStore

_FRESH, _RANK = "fresh", "rank"
"""Columns that are not stored: whether the sample is new or a replacement, and its rank."""
_MAX_BYTES_FACTOR = 0.5
"""The collected samples take at most this fraction of the maximum size of the sample store in memory."""


class SampleCollector:
    """Collects the new samples of a fetch, and adds them to the sample store in one step."""

    def __init__(self, store: SampleStore, since: float, until: float) -> None:
        """Prepare to collect the samples of a fetch from `since` to `until` (Unix seconds)."""
        self._store = store
        self._since = since
        self._until = until
        self._steps: list[float] = []
        self._tables: list[pa.Table] = []
        self._other_ranks: list[FloatArray] = []
        """Ranks below the maximum of usable samples that need not be stored, e.g. because they are stored already."""
        self._max_rank = 1.0
        self._n_groups = 0
        self._only: Observations | None = None
        """The observations, if they are of a single group."""
        self._fresh: IntArray = np.empty(0, dtype=np.int64)
        """Indices of the new samples in `_only`."""
        self._known = self._unusable = self._waiting = self._left_out = 0
        self.n_fetched = 0
        """Number of samples in all observations."""

    def add(self, observations: Observations) -> None:
        """Collect the new samples in the observations of a group of nodes."""
        self.n_fetched += len(observations.sample_time)
        self._n_groups += 1
        self._only = observations if self._n_groups == 1 else None
        found = self._store.find_new(observations, self._until)
        self._fresh = found.fresh
        self._known += found.known
        self._unusable += found.unusable
        self._waiting += found.waiting
        if np.isfinite(observations.step):
            self._steps.append(float(observations.step))
        all_ranks = _ranks(observations)
        is_other = (found.complete > 0) & (all_ranks < self._max_rank)
        is_other[found.chosen] = False
        self._other_ranks.append(all_ranks[is_other])
        ranks = all_ranks[found.chosen]
        kept = ranks < self._max_rank
        self._left_out += int(np.count_nonzero(~kept))
        chosen = found.chosen[kept]
        if len(chosen):
            table = sample_table.to_table(observations, chosen, found.complete)
            table = table.append_column(_FRESH, pa.array(np.isin(chosen, found.fresh)))
            self._tables.append(table.append_column(_RANK, pa.array(ranks[kept])))
        while self._exceeds_limits():
            self._halve_max_rank()

    def _exceeds_limits(self) -> bool:
        n_collected = sum(len(table) for table in self._tables)
        if n_collected + sum(map(len, self._other_ranks)) > self._store.max_samples:
            return True
        return n_collected > 1 and sum(table.nbytes for table in self._tables) > (
            _MAX_BYTES_FACTOR * self._store.max_bytes
        )

    def _halve_max_rank(self) -> None:
        self._max_rank /= 2
        self._other_ranks = [ranks[ranks < self._max_rank] for ranks in self._other_ranks]
        if self._tables:
            for at, table in enumerate(self._tables):
                is_kept = table.column(_RANK).to_numpy() < self._max_rank
                self._left_out += int(np.count_nonzero(~is_kept))
                # `take` copies the samples, so that the memory of the others is released
                self._tables[at] = table.take(pa.array(np.flatnonzero(is_kept)))

    def store(self) -> tuple[AppendResult, Observations | None]:
        """Add the collected samples to the store. Return the result, and observations with the new samples.

        `AppendResult.fresh` has the indices of the new samples in these observations, which are None if there are no
        new samples. If an error occurs, no sample is added.
        """
        step = float(np.median(self._steps)) if self._steps else float("nan")
        n_stored, fresh, observations = 0, np.empty(0, dtype=np.int64), None
        if any(map(len, self._tables)):
            collected = sample_table.concatenate(self._tables)
            self._tables = []
            rows = np.flatnonzero(collected.column(_FRESH).to_numpy(zero_copy_only=False))
            table = collected.drop_columns([_FRESH, _RANK])
            self._store.append(table, len(rows), since=self._since, until=self._until, step=step)
            n_stored = len(table)
            if self._only is not None and not self._left_out:
                observations, fresh = self._only, self._fresh
            elif len(rows):
                observations = sample_table.to_observations(table.take(pa.array(rows)), step)
                fresh = np.arange(len(rows))
        n_fresh = len(fresh)
        result = AppendResult(
            added=n_fresh,
            replaced=n_stored - n_fresh,
            known=self._known,
            unusable=self._unusable,
            waiting=self._waiting,
            fresh=fresh,
            left_out=self._left_out,
        )
        return result, observations


def _ranks(observations: Observations) -> FloatArray:
    """Return the ranks of all samples, numbers from 0 to 1 that depend only on the node and the time."""
    digests = [hashlib.blake2b(stream.node.encode(), digest_size=8).digest() for stream in observations.streams]
    of_stream = np.frombuffer(b"".join(digests), dtype=np.uint64)
    keys = of_stream[observations.sample_stream] ^ observations.sample_time.view(np.uint64)
    ranks: FloatArray = mixed(keys) / 2.0**64
    return ranks
