"""A metric schema that raises an exception for every metric."""

from collections.abc import Sequence

from kepler_core.contracts import MetricMapping, MetricSchema


class BrokenSchema(MetricSchema):
    """A metric schema whose method `mappings` always raises `LookupError`."""

    def mappings(self, metric: str) -> Sequence[MetricMapping]:
        raise LookupError(f"this schema raises for every metric: {metric}")
