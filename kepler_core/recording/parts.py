"""A recording that is read in parts, each with the series of some of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import attrs

from kepler_core.recording.columns import Recording


@attrs.frozen(eq=False)
class Part:
    """The series of some machines in a period of time. A part can be pickled, and read in another process."""

    start: float
    """Start of the period in Unix seconds; minus infinity if it has no start."""
    end: float
    """End of the period in Unix seconds. The period does not include this time."""
    read: Callable[[], Recording]
    """Function that reads the part, with some minutes before and after the period. Rates at its edges need them."""


@attrs.frozen(eq=False)
class WholeRecording:
    """Properties of a whole recording. Some rules need them, so that they treat all parts of the recording alike."""

    name: str
    digest: str
    sample_counts: Mapping[str, int]
    """Number of samples of each metric that was chosen for reading."""
    other_metrics: tuple[str, ...]
    """Sorted names of the metrics that were not chosen for reading."""
    metric_prefix: str | None
    n_machines: int


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
    """Function that yields the parts of the recording. Each part has the name and digest of the whole recording."""
    metric_prefix: str | None = None
    """First word of the exporter's metric names. None stands for the word that the metric schema expects."""
    n_machines: int = 1
    parts: tuple[Part, ...] = ()
    """The recording divided by machines and by time, for `kepler_core.pipeline.part_sampling`."""

    @property
    def whole(self) -> WholeRecording:
        """Properties of the whole recording."""
        return WholeRecording(
            self.name, self.digest, self.sample_counts, self.other_metrics, self.metric_prefix, self.n_machines
        )


def parts_of(recording: Recording | RecordingParts) -> Iterator[Recording]:
    """Yield the parts of a recording; a recording that is in memory is a single part."""
    if isinstance(recording, Recording):
        yield recording
    else:
        yield from recording.read()
