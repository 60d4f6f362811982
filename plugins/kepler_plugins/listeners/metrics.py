"""Figures of trainings for Prometheus, as a file for node exporter's textfile collector.

KEPLER_METRICS_FILE (environment or configuration folder) names the file, e.g.
/var/lib/node_exporter/kepler.prom; without it nothing is written. Each publication replaces it as a
whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kepler_core.configuration import Configuration
from kepler_core.plugins.hooks import hookimpl

FILE = "KEPLER_METRICS_FILE"

# events of one training come on one thread; a server may train on several
_of_training = threading.local()


@hookimpl
def kepler_training_started(models: int) -> None:
    """Begins to count."""
    _of_training.models = []
    _of_training.started = time.time()


@hookimpl
def kepler_model_trained(model: Mapping[str, Any]) -> None:
    """Remembers a model's figures."""
    if hasattr(_of_training, "models"):
        _of_training.models.append(model)


@hookimpl
def kepler_model_published(pipeline: str, version: int) -> None:
    """Writes the file."""
    models = getattr(_of_training, "models", [])
    started = getattr(_of_training, "started", time.time())
    _of_training.models = []
    path = Configuration().text(FILE)
    if path is None:
        return
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, what: str, *labels: str) -> Gauge:
        return Gauge(name, what, ["pipeline", *labels], registry=registry)

    gauge("kepler_pipeline_version", "Version that was published last").labels(pipeline).set(version)
    gauge("kepler_pipeline_published_timestamp_seconds", "When, Unix time").labels(pipeline).set_to_current_time()
    gauge("kepler_pipeline_training_seconds", "How long fitting and publishing took").labels(pipeline).set(
        time.time() - started
    )
    counts = gauge("kepler_pipeline_models", "Models of the last training", "outcome")
    for outcome, failed in (("published", False), ("failed", True)):
        counts.labels(pipeline, outcome).set(sum(("reason" in model) is failed for model in models))
    errors = gauge("kepler_model_mae_watts", "Error in validation", "source", "output_type", "feature_group", "trainer")
    for model in models:
        if "reason" not in model:
            key = (model[name] for name in ("source", "output_type", "feature_group", "trainer"))
            errors.labels(pipeline, *key).set(model["mae"])
    target = Path(path)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        staged.write_bytes(generate_latest(registry))
        staged.chmod(0o644)
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
