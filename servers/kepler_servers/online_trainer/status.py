"""The status of an online trainer, which `/healthz` and `/metrics` report."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import attrs


@attrs.define
class Status:
    """The state and the counters of an online trainer.

    Threads of the HTTP server read the status without a lock while the thread of the rounds updates it. Therefore
    values are only replaced or counted up, and no dict or counter is ever cleared.
    """

    started: float = attrs.field(factory=time.time)
    """Time at which the online trainer started, Unix seconds."""
    rounds: Counter[str] = attrs.field(factory=Counter)
    """Outcome of a round -> number of rounds with this outcome."""
    problems: Counter[str] = attrs.field(factory=Counter)
    """Kind of problem -> number of problems of this kind."""
    problem: str | None = None
    """Description of the latest round's problem; None if the round succeeded."""
    last_success: float | None = None
    """Time of the latest round that fetched data, Unix seconds; None before the first such round."""
    lag: float | None = None
    """Age of the newest stored sample in seconds, measured with the Prometheus server's clock; None if unknown."""
    samples: Counter[str] = attrs.field(factory=Counter)
    """What the sample store did with samples ("added", "replaced", "known", "unusable") -> number of these samples."""
    decisions: Counter[str] = attrs.field(factory=Counter)
    """Decision ("published", "kept aside", "failed") -> number of retrainings with this decision."""
    last_decision: dict[str, Any] | None = None
    """The latest decision as it was recorded in the model store; None if there is no decision yet."""
    power_shifts: int = 0
    stored_samples: dict[str, int] = attrs.field(factory=dict)
    """Node -> number of its samples in the sample store."""
    stored_bytes: int = 0
    damaged_files: int = 0
    """Number of files of the sample store that could not be read."""
    gone: dict[str, float] = attrs.field(factory=dict)
    """Node without new samples -> seconds by which its newest sample is older than the newest sample of all nodes."""
    seconds: dict[str, float] = attrs.field(factory=dict)
    """"round", "fetch" or "retraining" -> duration of the latest round, fetch or retraining in seconds."""
