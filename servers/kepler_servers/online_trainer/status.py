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
    """Number of rounds with each outcome."""
    problems: Counter[str] = attrs.field(factory=Counter)
    """Number of problems of each kind."""
    problem: str | None = None
    """Description of the latest round's problem; None if the round succeeded."""
    last_success: float | None = None
    """Time of the latest round that fetched data, Unix seconds; None before the first such round."""
    lag: float | None = None
    """Age of the newest stored sample in seconds, measured with the Prometheus server's clock; None if unknown."""
    samples: Counter[str] = attrs.field(factory=Counter)
    """Number of fetched samples by their result in the sample store: "added", "replaced", "known" (the store already
    had the sample), "unusable" or "left_out" (the fetch had more samples than the store may hold)."""
    decisions: Counter[str] = attrs.field(factory=Counter)
    """Number of retrainings with each decision.

    The decisions are "published", "kept aside" (new models are not published) and "failed" (no new models).
    """
    last_decision: dict[str, Any] | None = None
    """The latest decision in the model store, as a JSON object; None if there is no decision yet."""
    power_shifts: int = 0
    stored_samples: dict[str, int] = attrs.field(factory=dict)
    """Number of samples of each node in the sample store."""
    stored_bytes: int = 0
    damaged_files: int = 0
    """Number of files of the sample store that could not be read."""
    gone: dict[str, float] = attrs.field(factory=dict)
    """For each node without new samples: seconds by which its newest sample is older than the newest sample of all."""
    seconds: dict[str, float] = attrs.field(factory=dict)
    """Durations of the latest "round", "fetch" and "retraining" in seconds."""
