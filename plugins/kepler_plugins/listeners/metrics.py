"""The listener that writes Prometheus metrics about trainings to a file for node exporter's textfile collector.

The setting KEPLER_METRICS_FILE is the path of the file, for example /var/lib/node_exporter/kepler.prom. It
can be an environment variable or a file in the configuration folder. Without the setting, no metrics are
written. Each publication of a pipeline replaces the whole file.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kepler_core.atomic_files import whole_file
from kepler_core.configuration import Configuration
from kepler_core.plugins.hooks import hookimpl

FILE = "KEPLER_METRICS_FILE"

# Each training calls its hooks on a single thread, and a server may run several trainings. So there is one list of
# models per thread.
_training = threading.local()


@hookimpl
def kepler_training_started(models: int) -> None:
    """Start an empty list of models for the training on this thread."""
    _training.models = []
    _training.started = time.time()


@hookimpl
def kepler_model_trained(model: Mapping[str, Any]) -> None:
    """Add a trained or failed model to the list of the training on this thread."""
    if hasattr(_training, "models"):
        _training.models.append(model)


@hookimpl
def kepler_model_published(pipeline: str, version: int) -> None:
    """Write the metrics of this thread's training to the file in KEPLER_METRICS_FILE, if the setting is given."""
    models = getattr(_training, "models", [])
    started = getattr(_training, "started", time.time())
    _training.models = []
    path = Configuration().text(FILE)
    if path is None:
        return
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, description: str, *labels: str) -> Gauge:
        return Gauge(name, description, ["pipeline", *labels], registry=registry)

    gauge("kepler_pipeline_version", "Version of the latest publication").labels(pipeline).set(version)
    gauge("kepler_pipeline_published_timestamp_seconds", "Time of the latest publication").labels(
        pipeline
    ).set_to_current_time()
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
    with whole_file(Path(path), f".{os.getpid()}") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(generate_latest(registry))
