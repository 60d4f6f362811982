"""Posts a summary of a training to a webhook, once its models are published.

The environment variable KEPLER_WEBHOOK_URL says where to; without it nothing is sent. A webhook that does
not answer is logged, and the training goes on: the models are in the store by then.
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
SECONDS = 10.0
"""Until a webhook counts as dead."""

# events of one training come on one thread; a server may train on several
_of_training = threading.local()


@hookimpl
def kepler_training_started(models: int) -> None:
    """Begins a new summary."""
    _of_training.models = []


@hookimpl
def kepler_model_trained(model: Mapping[str, Any]) -> None:
    """Remembers what became of a model."""
    if not hasattr(_of_training, "models"):
        _of_training.models = []
    _of_training.models.append(model)


@hookimpl
def kepler_model_published(pipeline: str, version: int, path: str) -> None:
    """Sends the summary."""
    models = getattr(_of_training, "models", [])
    _of_training.models = []
    url = os.environ.get(URL)
    if not url:
        return
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"{URL} is not http://… or https://…")
    done = [model for model in models if "reason" not in model]
    best = min(done, key=lambda model: model["mae"], default=None)
    summary = {
        "text": f"Kepler Core published {pipeline}, version {version}: {len(done)} models",
        "pipeline": pipeline,
        "version": version,
        "path": path,
        "models": len(done),
        "best": None if best is None else {"model": best["model_name"], "mae_watts": best["mae"]},
        "failed": [{"trainer": model["trainer"], "reason": model["reason"]} for model in models if "reason" in model],
    }
    body = json.dumps(summary).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        answer.read(1000)
