"""A recording that is read in parts, each with the series of some of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs

from kepler_core.recording.columns import Recording


@attrs.frozen(eq=False)
class RecordingParts:
    """A recording of which only one part is in memory at a time. Series of one machine are in one part."""

    name: str
    """Name of the recording in messages."""
    digest: str
    """Identifier of the data."""
    sample_counts: Mapping[str, int]
    """Number of samples of each metric that was chosen for reading."""
    other_metrics: tuple[str, ...]
    """Sorted names of the metrics that were not chosen for reading."""
    n_parts: int
    read: Callable[[], Iterator[Recording]]
    """Reads the parts, one after another. Each part has the name and the digest of the whole recording."""
    metric_prefix: str | None = None
    """First word of the exporter's metric names. None stands for the word that the metric schema expects."""


def parts_of(recording: Recording | RecordingParts) -> Iterator[Recording]:
    """Yield the parts of a recording; a recording that is in memory is a single part."""
    if isinstance(recording, Recording):
        yield recording
    else:
        yield from recording.read()
