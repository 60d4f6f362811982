"""The status of an online trainer, which `/healthz` and `/metrics` report."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import attrs


@attrs.define
class Status:
    """The state and the counters of an online trainer.

    The thread of the rounds updates the status while threads of the HTTP server read it without a lock. Therefore
    values are only replaced or increased, and no dict or counter is ever cleared.
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
    """Action of the sample store ("added", "replaced", "known", "unusable", "left_out") -> number of samples. "known"
    samples were already in the store; "left_out" samples exceeded its limit."""
    decisions: Counter[str] = attrs.field(factory=Counter)
    """Decision ("published", "kept aside", "failed") -> number of retrainings with this decision."""
    last_decision: dict[str, Any] | None = None
    """The latest decision in the model store, as a JSON object; None if there is no decision yet."""
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
