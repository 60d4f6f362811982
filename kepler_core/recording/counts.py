"""Irregularities of recordings, counted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs


@attrs.define
class Counts:
    """Irregularities of recordings and what was left out because of them.

    A `Counter` counts by metric name unless its description says otherwise.
    """

    not_finite: Counter[str] = attrs.field(factory=Counter)
    """Samples left out because they are NaN or infinite."""
    repeated_timestamps: Counter[str] = attrs.field(factory=Counter)
    """Samples left out because their series already has the timestamp."""
    empty_series: Counter[str] = attrs.field(factory=Counter)
    """Series without samples."""
    one_sample_series: Counter[str] = attrs.field(factory=Counter)
    """Series of one sample, which have no rate."""
    missing_labels: Counter[str] = attrs.field(factory=Counter)
    """Series without a label that should tell them apart, by "metric label"."""
    gaps: Counter[str] = attrs.field(factory=Counter)
    """Intervals too long for a rate (`rates.GAP_FACTOR`)."""
    resets: Counter[str] = attrs.field(factory=Counter)
    """Samples at which a counter fell."""
    duplicates: Counter[str] = attrs.field(factory=Counter)
    """Samples left out because another exporter reports the same series at the same time."""
    duplicate_nodes: list[str] = attrs.field(factory=list)
    """Nodes left out because they are another node under a second label; one sentence for each."""
    unknown_sources: Counter[str] = attrs.field(factory=Counter)
    """Energy series left out because no installed energy source reads their source label, by that label."""
    repeated_scrapes: int = 0
    """Times left out because no energy counter of the node had moved: the server repeated the last scrape."""
    counted_twice: Counter[str] = attrs.field(factory=Counter)
    """Intervals in which idle and dynamic energy rise alike, by "source component"."""
    dynamic_only: Counter[str] = attrs.field(factory=Counter)
    """Series of dynamic energy without a series of idle energy, by "source component"."""
    incomplete: Counter[str] = attrs.field(factory=Counter)
    """Times at which too few series have a value for the node's sum, by feature or "source component"."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts that are not zero, for JSON."""
        counts: dict[str, Any] = {}
        for field in attrs.fields(Counts):
            value = getattr(self, field.name)
            if isinstance(value, Counter):
                value = dict(+value)
            if value:
                counts[field.name] = value
        return counts

    def add(self, other: Counts) -> None:
        """Add the counts of another recording."""
        for field in attrs.fields(Counts):
            own, added = getattr(self, field.name), getattr(other, field.name)
            if isinstance(own, Counter):
                own.update(added)
            else:
                setattr(self, field.name, own + added)
