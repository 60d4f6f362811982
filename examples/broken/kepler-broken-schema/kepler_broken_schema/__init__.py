"""Fails for every metric that it is asked for."""

from kepler_core.contracts import MetricMapping, MetricSchema


class BrokenSchema(MetricSchema):
    """Knows nothing and says so loudly."""

    def mapping(self, metric: str) -> MetricMapping | None:
        raise LookupError(f"no idea of {metric}")
