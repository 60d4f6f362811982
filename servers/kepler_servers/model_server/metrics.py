"""`GET /metrics`: the counters of the server, and the weights and errors of the models that it serves."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from msgspec import UnsetType
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from kepler_core.models.kepler_weights import AllWeights
from kepler_core.store.models import StoredModel
from kepler_servers.http.metrics import RequestMetrics
from kepler_servers.live_catalogue import LiveCatalogue

MAX_MODELS = 500
"""Maximum number of models whose weights and errors are exposed. The models with the lowest errors are exposed."""

_MODEL_LABELS = ("pipeline", "source", "output_type", "feature_group", "model")


class ServerMetrics(RequestMetrics):
    """The Prometheus metrics of the model server.

    If there are several workers, each worker reports the sums over all workers.
    """

    def __init__(self, live: LiveCatalogue, *, several_workers: bool) -> None:
        # Several worker processes store the values of the metrics in files (PROMETHEUS_MULTIPROC_DIR), not in a
        # registry.
        own = None if several_workers else CollectorRegistry()
        super().__init__("kepler_model_server", own)
        self.selections = Counter(
            "kepler_model_server_selections",
            "Selected models, by the match of the node type (given, exact, nearest, unknown, any).",
            ("output_type", "node_type_match"),
            registry=own,
        )
        if own is None:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        else:
            self._registry = own
        self._registry.register(_CatalogueCollector(live))
        # A cache of counters, because prometheus_client's `labels()` takes longer than `inc()`.
        self._selected: dict[tuple[str, str], Counter] = {}

    def selected(self, output_type: str, match: str) -> None:
        """Count a selected model by its output type and by how its node type matches the machine."""
        counter = self._selected.get((output_type, match))
        if counter is None:
            counter = self._selected[output_type, match] = self.selections.labels(output_type, match)
        counter.inc()

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)


class _CatalogueCollector(Collector):
    def __init__(self, live: LiveCatalogue) -> None:
        self._live = live

    def describe(self) -> Iterable[Metric]:
        return ()  # otherwise prometheus_client would call `collect` for the metrics' names

    def collect(self) -> Iterable[Metric]:
        live = self._live
        catalogue = live.current
        models = GaugeMetricFamily("kepler_model_server_models", "Models that are served.", labels=("pipeline",))
        counts: dict[str, int] = dict.fromkeys(catalogue.node_types, 0)
        for model in catalogue.models:
            counts[model.pipeline] = counts.get(model.pipeline, 0) + 1
        for pipeline, count in sorted(counts.items()):
            models.add_metric((pipeline,), count)
        yield models
        broken = GaugeMetricFamily(
            "kepler_model_server_pipeline_broken",
            "1 for a pipeline whose current version cannot be read.",
            labels=("pipeline",),
        )
        for pipeline in sorted({*catalogue.node_types, *catalogue.broken}):
            broken.add_metric((pipeline,), float(pipeline in catalogue.broken))
        yield broken
        yield GaugeMetricFamily(
            "kepler_model_server_store_up", "1 if the store could be read, 0 if not.", float(live.store_problem is None)
        )
        yield GaugeMetricFamily(
            "kepler_model_server_store_age_seconds",
            "Seconds since the store was last read.",
            max(0.0, time.time() - live.looked_at),
        )
        families = _ModelFamilies()
        exposed = catalogue.find()[:MAX_MODELS]
        for model in exposed:
            families.add(model)
        yield from families
        yield GaugeMetricFamily(
            "kepler_model_server_models_not_exposed",
            f"Number of models beyond the first {MAX_MODELS}; their weights and errors are left out here.",
            len(catalogue.models) - len(exposed),
        )


class _ModelFamilies:
    """The Prometheus metrics with the weights and errors of models."""

    def __init__(self) -> None:
        per_feature = (*_MODEL_LABELS, "component", "feature")
        self._weight = GaugeMetricFamily("kepler_model_weight_watts", "Weight of a scaled feature.", labels=per_feature)
        self._scale = GaugeMetricFamily(
            "kepler_model_feature_scale", "Number that a feature is divided by.", labels=per_feature
        )
        self._bias = GaugeMetricFamily(
            "kepler_model_bias_watts", "Power if all features are 0.", labels=(*_MODEL_LABELS, "component")
        )
        self._curve = GaugeMetricFamily(
            "kepler_model_curve_weight",
            "Weights of a curve, in the order of its formula.",
            labels=(*_MODEL_LABELS, "component", "position"),
        )
        self._error = GaugeMetricFamily(
            "kepler_model_error",
            "Validated errors: mae in watts, mape in percent.",
            labels=(*_MODEL_LABELS, "component", "error"),
        )

    def __iter__(self) -> Iterator[Metric]:
        return iter((self._weight, self._scale, self._bias, self._curve, self._error))

    def add(self, model: StoredModel) -> None:
        labels = (model.pipeline, model.source, model.output_type, model.feature_group, model.name)
        for key, value in sorted(model.metadata.items()):
            if key.endswith(("mae", "mape")) and isinstance(value, int | float) and value >= 0:
                component, _, kind = key.rpartition("_")
                self._error.add_metric((*labels, component, kind), value)
        if model.weights is not None:
            for component, weights in model.weights.components.items():
                self._add_weights((*labels, component), weights)

    def _add_weights(self, labels: tuple[str, ...], weights: AllWeights) -> None:
        for feature, variable in weights.Numerical_Variables.items():
            self._scale.add_metric((*labels, feature), variable.scale)
            if variable.weight is not None:
                self._weight.add_metric((*labels, feature), variable.weight)
        if not isinstance(weights.Bias_Weight, UnsetType):
            self._bias.add_metric(labels, weights.Bias_Weight)
        if not isinstance(weights.CurveFit_Weights, UnsetType):
            for position, value in enumerate(weights.CurveFit_Weights):
                self._curve.add_metric((*labels, str(position)), value)
