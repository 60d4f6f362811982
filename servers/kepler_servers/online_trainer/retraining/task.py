"""The task that the trainer sends to a retraining process."""

from __future__ import annotations

from typing import Any

import msgspec


class RetrainingTask(msgspec.Struct, frozen=True):
    """The task of one retraining. The process reads it from standard input as JSON."""

    state: str
    """The state folder."""
    store: str
    """Location of the model store."""
    pipeline: dict[str, Any]
    trigger: str
    """"first models", "new data" or "drift"."""
    train_all: bool
    """Whether to train all models anew even if recalibrated models follow a power shift."""
    jobs: int = 1
    """Fits at a time."""
    machine_spec: dict[str, Any] | None = None
    """Describes the nodes, if that is known."""
