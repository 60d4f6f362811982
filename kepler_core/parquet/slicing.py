"""Divide a recording into parts: the series of some machines in a slice of time.

Some rules compare a node's values with the usual values of the node in the slice. So the slices must not depend on the
number of workers or the size of the parts, but only on the recording. The division into machines changes no result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import attrs

from kepler_core.parquet.fragments import Fragment
from kepler_core.parquet.node_groups import grouped

MARGIN_SECONDS = 600.0
"""A part is read with margins of this length before and after it. The margins are longer than a scrape interval, and
longer than the time between two readings of a slow meter."""
MACHINE_SAMPLES = 4_000_000
"""Maximum number of samples of one machine in a slice of time; they need about 300 MB of memory."""
_SLICE_HOURS = (24, 12, 6, 3, 1)
_MAX_SLICES = 100_000


@attrs.frozen
class Chosen:
    """The series and the time range of a part of a recording."""

    texts: frozenset[str]
    """The texts of the labels."""
    start: float
    end: float

    def has(self, fragment: Fragment) -> bool:
        """Return whether a row group may have samples of this part, or of the margins before and after it."""
        in_time = fragment.first < self.end + MARGIN_SECONDS and fragment.last >= self.start - MARGIN_SECONDS
        return in_time and not self.texts.isdisjoint(fragment.n_rows)


def divide(
    fragments: Sequence[Fragment], machines: Sequence[list[str]], most: int, machine_samples: int = MACHINE_SAMPLES
) -> Iterator[Chosen]:
    """Yield the parts of a recording, each with at most `most` samples or with a single machine.

    `machines` lists the series of each machine, named by the texts of their labels. The time is divided into slices. A
    slice is as long as possible, but no machine has more than `machine_samples` samples in it. The samples of a row
    group count as evenly distributed over its time.
    """
    hours, counts = _slices(fragments, machines, machine_samples)
    for number, n_samples in sorted(counts.items()):
        start = -math.inf if hours is None else number * hours * 3600.0
        end = math.inf if hours is None else start + hours * 3600.0
        here = [texts for texts in ([t for t in machine if t in n_samples] for machine in machines) if texts]
        for texts in grouped(here, n_samples, most):
            yield Chosen(texts, start, end)


def _slices(
    fragments: Sequence[Fragment], machines: Sequence[list[str]], machine_samples: int
) -> tuple[int | None, Mapping[int, Mapping[str, float]]]:
    """Return the length of a slice of time in hours, and the number of samples by slice and series.

    If the length is None, one slice is the whole recording.
    """
    hours, counts = None, _counts(fragments, None) or {}
    for shorter in _SLICE_HOURS:
        largest = max(
            (sum(n.get(text, 0.0) for text in texts) for n in counts.values() for texts in machines), default=0
        )
        of_shorter = None if largest <= machine_samples else _counts(fragments, shorter)
        if of_shorter is None:
            break
        hours, counts = shorter, of_shorter
    return hours, counts


def _counts(fragments: Sequence[Fragment], hours: int | None) -> Mapping[int, Mapping[str, float]] | None:
    """Return the number of samples by slice of time and series. A slice has `hours` hours.

    Return None if the recording cannot be divided into slices of this length.
    """
    seconds = math.inf if hours is None else hours * 3600.0
    counts: dict[int, dict[str, float]] = {}
    for fragment in fragments:
        if hours is None:
            first, last = 0, 0
        elif not (math.isfinite(fragment.first) and math.isfinite(fragment.last)):
            return None
        else:
            first, last = math.floor(fragment.first / seconds), math.floor(fragment.last / seconds)
        if last - first > _MAX_SLICES:
            return None
        length = fragment.last - fragment.first
        for number in range(first, last + 1):
            overlap = min(fragment.last, (number + 1) * seconds) - max(fragment.first, number * seconds)
            fraction = overlap / length if last > first else 1.0
            of_slice = counts.setdefault(number, {})
            for text, n_rows in fragment.n_rows.items():
                of_slice[text] = of_slice.get(text, 0.0) + n_rows * fraction
        if len(counts) > _MAX_SLICES:
            return None
    return counts
