"""Fails for every metric that it is asked for."""

from kepler_core.contracts import MetricMeaning, MetricSchema


class BrokenSchema(MetricSchema):
    """Knows nothing and says so loudly."""

    def meaning(self, metric: str) -> MetricMeaning | None:
        raise LookupError(f"no idea of {metric}")
