"""What was noticed in a recording and left out on the way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs


@attrs.define
class Counts:
    """What was noticed and left out on the way, by metric or as a whole."""

    not_finite: Counter[str] = attrs.field(factory=Counter)
    repeated_timestamps: Counter[str] = attrs.field(factory=Counter)
    empty_series: Counter[str] = attrs.field(factory=Counter)
    one_sample_series: Counter[str] = attrs.field(factory=Counter)
    missing_labels: Counter[str] = attrs.field(factory=Counter)
    gaps: Counter[str] = attrs.field(factory=Counter)
    resets: Counter[str] = attrs.field(factory=Counter)
    duplicates: Counter[str] = attrs.field(factory=Counter)
    """Samples that a second exporter reported of what the first had reported already."""
    duplicate_nodes: list[str] = attrs.field(factory=list)
    unknown_sources: Counter[str] = attrs.field(factory=Counter)
    """Energy series by a source label that no installed energy source reads."""
    repeated_scrapes: int = 0
    """Times at which no energy counter of a node had moved: the server repeated the last scrape."""
    counted_twice: Counter[str] = attrs.field(factory=Counter)
    """Intervals of a "source component" in which idle and dynamic energy rise alike, nearly always."""
    dynamic_only: Counter[str] = attrs.field(factory=Counter)
    """Series of a "source component" that has dynamic energy only: no idle energy to add."""
    incomplete: Counter[str] = attrs.field(factory=Counter)
    """Node rows without a value because too few series had one."""

    def as_dict(self) -> dict[str, Any]:
        """What was counted at least once."""
        plain = {f.name: getattr(self, f.name) for f in attrs.fields(Counts)}
        return {
            name: dict(+value) if isinstance(value, Counter) else value
            for name, value in plain.items()
            if (+value if isinstance(value, Counter) else value)
        }

    def add(self, other: Counts) -> None:
        for field in attrs.fields(Counts):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            else:
                setattr(self, field.name, mine + theirs)
