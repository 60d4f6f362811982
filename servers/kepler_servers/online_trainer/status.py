"""The status of the rounds, which `/healthz` and `/metrics` report."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import attrs


@attrs.define
class Status:
    """The state and the counters of an online trainer.

    HTTP threads read it while the trainer's thread updates it: values are replaced or counted up, and
    never cleared.
    """

    started: float = attrs.field(factory=time.time)
    """Unix seconds."""
    rounds: Counter[str] = attrs.field(factory=Counter)
    """Outcome -> number of rounds."""
    problems: Counter[str] = attrs.field(factory=Counter)
    """Kind -> number of problems."""
    problem: str | None = None
    """The problem of the last round."""
    last_success: float | None = None
    """Unix seconds."""
    lag: float | None = None
    """Seconds from the newest data in the sample store to the Prometheus server's clock."""
    samples: Counter[str] = attrs.field(factory=Counter)
    """"added", "replaced", "known" or "unusable" -> number of fetched samples."""
    decisions: Counter[str] = attrs.field(factory=Counter)
    """Decision -> number of retrainings."""
    last_decision: dict[str, Any] | None = None
    """As it is recorded in the model store."""
    power_shifts: int = 0
    stored_samples: dict[str, int] = attrs.field(factory=dict)
    """Node -> samples in the sample store."""
    stored_bytes: int = 0
    damaged_files: int = 0
    """Files of the sample store that could not be read."""
    gone: dict[str, float] = attrs.field(factory=dict)
    """Node -> seconds between its newest sample and the newest sample of all nodes, if it has fallen behind."""
    seconds: dict[str, float] = attrs.field(factory=dict)
    """"round", "fetch" or "retraining" -> duration of the last one."""
