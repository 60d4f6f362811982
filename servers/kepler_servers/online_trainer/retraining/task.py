"""The task that the online trainer sends to a retraining process."""

from __future__ import annotations

from typing import Any

import msgspec


class RetrainingTask(msgspec.Struct, frozen=True):
    """The task of one retraining, which the retraining process reads as JSON from standard input."""

    state: str
    """Path of the online trainer's state folder."""
    store: str
    """Location of the model store: a folder or a URL."""
    pipeline: dict[str, Any]
    trigger: str
    """Reason for the retraining: "first models", "new data" or "drift"."""
    train_all: bool
    """Whether all models are trained anew, even if it is enough to recalibrate the served models after a power
    shift."""
    jobs: int = 1
    """Number of models to fit in parallel."""
    machine_spec: dict[str, Any] | None = None
    """Description of the nodes' machines; None if there is no description."""
    observed: list[dict[str, Any]] = []
    """The running errors and other results of the served models, as in the member `models` of `/healthz`."""
    report: bool = True
    """Whether Kepler Core's own report makes a page for the decision."""
