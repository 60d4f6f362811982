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
    """Whether to train all models anew even if recalibrating the served models after a power shift would suffice."""
    jobs: int = 1
    """Number of models to fit in parallel."""
    machine_spec: dict[str, Any] | None = None
    """Description of the nodes' machines; None if they are not described."""
    observed: list[dict[str, Any]] = []
    """What the online trainer has observed of the served models: running errors, coverage (`/healthz`, `models`)."""
    report: bool = True
    """Whether the decision gets a page, if a listener makes one."""
