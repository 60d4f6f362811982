"""`GET /metrics`: the server's own counters, and the weights and errors of the models it serves."""

from __future__ import annotations

import time
from collections.abc import Iterable

from msgspec import UnsetType
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from kepler_core.store.models import StoredModel
from kepler_servers.http.metrics import RequestMetrics
from kepler_servers.live_catalogue import LiveCatalogue

MAX_MODELS = 500
"""Weights and errors of at most so many models are exposed, those with the lowest errors first."""

_MODEL_LABELS = ("pipeline", "source", "output_type", "feature_group", "model")


class ServerMetrics(RequestMetrics):
    """Counters of one worker process; with several workers, of all of them together."""

    def __init__(self, live: LiveCatalogue, *, several_workers: bool) -> None:
        # with several workers the values are in files (PROMETHEUS_MULTIPROC_DIR), not in a registry
        own = None if several_workers else CollectorRegistry()
        super().__init__("kepler_model_server", own)
        self.selections = Counter(
            "kepler_model_server_selections",
            "Models chosen, by how the node type was found (given, exact, nearest, unknown, any).",
            ("output_type", "node_type_match"),
            registry=own,
        )
        if own is None:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        else:
            self._registry = own
        self._registry.register(_CatalogueCollector(live))
        self._selected: dict[tuple[str, str], Counter] = {}

    def selected(self, output_type: str, match: str) -> None:
        """Count a choice of a model."""
        found = self._selected.get((output_type, match))
        if found is None:
            found = self._selected[output_type, match] = self.selections.labels(output_type, match)
        found.inc()

    def exposition(self) -> bytes:
        """All of it as Prometheus reads it."""
        return generate_latest(self._registry)


class _CatalogueCollector(Collector):
    def __init__(self, live: LiveCatalogue) -> None:
        self._live = live

    def describe(self) -> Iterable[Metric]:
        return ()  # or the registry would collect everything once to learn the names

    def collect(self) -> Iterable[Metric]:
        live = self._live
        catalogue = live.current
        models = GaugeMetricFamily("kepler_model_server_models", "Models that can be served.", labels=("pipeline",))
        counts: dict[str, int] = dict.fromkeys(catalogue.node_types, 0)
        for model in catalogue.models:
            counts[model.pipeline] = counts.get(model.pipeline, 0) + 1
        for pipeline, count in sorted(counts.items()):
            models.add_metric((pipeline,), count)
        yield models
        broken = GaugeMetricFamily(
            "kepler_model_server_pipeline_broken",
            "1 for a pipeline that cannot be read as it is now.",
            labels=("pipeline",),
        )
        for pipeline in sorted({*catalogue.node_types, *catalogue.broken}):
            broken.add_metric((pipeline,), float(pipeline in catalogue.broken))
        yield broken
        yield GaugeMetricFamily(
            "kepler_model_server_store_up", "Whether the store could be read.", float(live.store_problem is None)
        )
        yield GaugeMetricFamily(
            "kepler_model_server_store_age_seconds",
            "Seconds since the store was last read.",
            max(0.0, time.time() - live.looked_at),
        )
        yield from _model_metrics(catalogue.find()[:MAX_MODELS], len(catalogue.models))


def _model_metrics(models: list[StoredModel], total: int) -> Iterable[Metric]:
    per_feature = (*_MODEL_LABELS, "component", "feature")
    weight = GaugeMetricFamily("kepler_model_weight_watts", "Weight of a scaled feature.", labels=per_feature)
    scale = GaugeMetricFamily("kepler_model_feature_scale", "A feature is divided by this.", labels=per_feature)
    bias = GaugeMetricFamily(
        "kepler_model_bias_watts", "Power with all features at 0.", labels=(*_MODEL_LABELS, "component")
    )
    curve = GaugeMetricFamily(
        "kepler_model_curve_weight",
        "Weights of a curve, in the order of its formula.",
        labels=(*_MODEL_LABELS, "component", "position"),
    )
    error = GaugeMetricFamily(
        "kepler_model_error",
        "Validated errors: mae in watts, mape in percent.",
        labels=(*_MODEL_LABELS, "component", "error"),
    )
    for model in models:
        labels = (model.pipeline, model.source, model.output_type, model.feature_group, model.name)
        for key, value in sorted(model.metadata.items()):
            if key.endswith(("mae", "mape")) and isinstance(value, int | float) and value >= 0:
                component, _, kind = key.rpartition("_")
                error.add_metric((*labels, component, kind), value)
        if model.weights is None:
            continue
        for component, found in model.weights.components.items():
            for feature, variable in found.Numerical_Variables.items():
                scale.add_metric((*labels, component, feature), variable.scale)
                if variable.weight is not None:
                    weight.add_metric((*labels, component, feature), variable.weight)
            if not isinstance(found.Bias_Weight, UnsetType):
                bias.add_metric((*labels, component), found.Bias_Weight)
            if not isinstance(found.CurveFit_Weights, UnsetType):
                for position, value in enumerate(found.CurveFit_Weights):
                    curve.add_metric((*labels, component, str(position)), value)
    yield from (weight, scale, bias, curve, error)
    yield GaugeMetricFamily(
        "kepler_model_server_models_not_exposed",
        f"Models beyond the first {MAX_MODELS}, whose weights and errors are not here.",
        total - len(models),
    )
