"""Has a metric schema that raises for every metric."""

from kepler_core.contracts import MetricMapping, MetricSchema


class BrokenSchema(MetricSchema):
    """Raises `LookupError` in `mapping`."""

    def mapping(self, metric: str) -> MetricMapping | None:
        raise LookupError(f"no idea of {metric}")
