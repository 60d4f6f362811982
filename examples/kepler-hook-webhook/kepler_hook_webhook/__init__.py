"""A listener that posts a summary of a training to a webhook after the training's models were published.

The environment variable KEPLER_WEBHOOK_URL has the address of the webhook. If the variable is not set, the
listener sends nothing. If the webhook does not answer, Kepler Core logs a warning. The models stay published,
because the store contains them before the summary is sent.
"""

from __future__ import annotations

import json
import os
import threading
import urllib.request
from collections.abc import Mapping
from typing import Any

from kepler_core.plugins.hooks import hookimpl

URL = "KEPLER_WEBHOOK_URL"
TIMEOUT_SECONDS = 10.0
"""Longest time to wait for the webhook's answer. It is short because the training waits for the answer, too."""

# A server may run several trainings at the same time. All hooks of one training are called on one thread, so the
# summary of each training is stored per thread.
_training = threading.local()


@hookimpl
def kepler_training_started(models: int) -> None:
    """Start the summary of a new training."""
    _training.models = []


@hookimpl
def kepler_model_trained(model: Mapping[str, Any]) -> None:
    """Add a trained or failed model to the summary."""
    if not hasattr(_training, "models"):
        _training.models = []
    _training.models.append(model)


@hookimpl
def kepler_model_published(pipeline: str, version: int, path: str) -> None:
    """Send the summary of the training to the webhook."""
    models = getattr(_training, "models", [])
    _training.models = []
    url = os.environ.get(URL)
    if not url:
        return
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{URL} must begin with http:// or https://")
    trained = [model for model in models if "reason" not in model]
    best = min(trained, key=lambda model: model["mae"], default=None)
    summary = {
        "text": f"Kepler Core published {pipeline}, version {version}: {len(trained)} models",
        "pipeline": pipeline,
        "version": version,
        "path": path,
        "models": len(trained),
        "best": None if best is None else {"model": best["model_name"], "mae_watts": best["mae"]},
        "failed": [{"trainer": model["trainer"], "reason": model["reason"]} for model in models if "reason" in model],
    }
    body = json.dumps(summary).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
        answer.read(1000)
