"""Divide a time range into queries that a Prometheus server accepts.

Samples are queried in one of two ways:

- As scraped: `metric{…}[…]` returns each sample at its own time.
- At a step: `last_over_time(metric{…}[step])` returns the last sample of each step. A range query for
  `metric{…}` alone would repeat the last sample of a series for five minutes after the series has ended.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs

from kepler_core.prometheus.instances import Shard, instance_matcher
from kepler_core.prometheus.selections import Selection

MAX_POINTS = 11_000
"""Largest number of samples per series that Prometheus returns for a range query."""
SCRAPED_SECONDS = 3600.0
"""A query for samples at their own times (not at a step) covers a time range of this length."""
_MACHINE_STEP_SECONDS = 3600.0
"""Largest time between two samples of a metric that describes machines. Its values hardly ever change."""
_LONGEST_REST_SECONDS = 60.0
"""A shorter rest of a time range is added to the query before it, because each request has a cost of its own."""


@attrs.frozen
class Query:
    """A query for the samples of one metric from `start` to `end`, both included."""

    selection: Selection
    start: int
    """Start of the queried time range in Unix milliseconds, the resolution of Prometheus' timestamps."""
    end: int
    """End of the queried time range in Unix milliseconds."""
    step: int | None
    """Milliseconds between the queried samples; None for all samples at their own times."""
    instances: Shard | None = None
    """The instances whose series are queried; None for all instances."""

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.selection.metric

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the path and the parameters of the HTTP request."""
        selection = self.selection
        if self.instances is not None:
            matcher = instance_matcher(selection.node_label, self.instances)
            selection = attrs.evolve(selection, matchers=(*selection.matchers, matcher))
        selector = selection.selector()
        if self.step is None:
            # Prometheus 3 excludes a sample at the very start of a range, Prometheus 2 includes it. The range
            # therefore starts a millisecond earlier. If two answers contain the same sample, the module `joining`
            # keeps only one copy.
            window = self.end - self.start + 1
            return "/api/v1/query", {"query": f"{selector}[{window}ms]", "time": _seconds(self.end)}
        # The window is a millisecond shorter than the step. Prometheus 2 includes both ends of a window, so it would
        # return a sample at the boundary of two steps for both steps.
        query = f"last_over_time({selector}[{max(self.step - 1, 1)}ms])"
        return "/api/v1/query_range", {
            "query": query,
            "start": _seconds(self.start),
            "end": _seconds(self.end),
            "step": _seconds(self.step),
        }

    def halves(self) -> tuple[Query, Query] | None:
        """Return queries for the first and second half of the time range; None if the range is too short to halve."""
        if self.step is None:
            if self.end - self.start < 2:
                return None
            middle = (self.start + self.end) // 2
            return attrs.evolve(self, end=middle), attrs.evolve(self, start=middle + 1)
        points = (self.end - self.start) // self.step
        if points < 1:
            return None
        middle = self.start + points // 2 * self.step
        return attrs.evolve(self, end=middle), attrs.evolve(self, start=middle + self.step)

    def instance_halves(self) -> tuple[Query, Query] | None:
        """Return queries for the first and second half of the instances; None if they cannot be halved."""
        if self.instances is None or len(self.instances) < 2:
            return None
        middle = len(self.instances) // 2
        halves = self.instances[:middle], self.instances[middle:]
        return attrs.evolve(self, instances=halves[0]), attrs.evolve(self, instances=halves[1])


def _seconds(milliseconds: int) -> str:
    return f"{milliseconds // 1000}.{milliseconds % 1000:03d}"


def plan_queries(
    selections: Sequence[Selection],
    start: float,
    end: float,
    step: float | None,
    shards: Mapping[Selection, Sequence[Shard | None]] | None = None,
) -> list[Query]:
    """Return queries for all samples from `start` to `end`, sorted by metric, then by shard, and then by time.

    `start` and `end` are in Unix seconds, and both are included. `step` is in seconds; None queries the
    samples as they were scraped. Without `shards`, each query is for all instances.
    """
    first, last = round(start * 1000), round(end * 1000)
    if step is None:
        length, apart = round(SCRAPED_SECONDS * 1000) - 1, 1
        longest = length + round(_LONGEST_REST_SECONDS * 1000)
        step_ms = None
    else:
        step_ms = max(round(step * 1000), 1)
        length, apart = (MAX_POINTS - 1) * step_ms, step_ms
        longest = length
        last = first + (last - first) // step_ms * step_ms
    spans = []
    while first <= last:
        spans.append((first, last if last - first <= longest else first + length))
        first = spans[-1][1] + apart
    return [
        Query(selection, *span, step_ms, shard)
        for selection in selections
        for shard in ((None,) if shards is None else shards[selection])
        for span in spans
    ]


def plan_machine_queries(selections: Sequence[Selection], start: float, end: float) -> list[Query]:
    """Return queries for metrics that describe machines: for the last sample in each hour, or in the whole time range.

    The result has the same order as that of `plan_queries`.
    """
    first, last = round(start * 1000), round(end * 1000)
    steps = max(math.ceil((last - first) / (1000 * _MACHINE_STEP_SECONDS)), 1)
    return plan_queries(selections, start, end, max((last - first) // steps, 1) / 1000)
