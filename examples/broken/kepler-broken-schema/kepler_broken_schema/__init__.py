"""A metric schema that raises for every metric."""

from kepler_core.contracts import MetricMapping, MetricSchema


class BrokenSchema(MetricSchema):
    """A metric schema whose method `mapping` always raises `LookupError`."""

    def mapping(self, metric: str) -> MetricMapping | None:
        raise LookupError(f"this schema raises for every metric: {metric}")
