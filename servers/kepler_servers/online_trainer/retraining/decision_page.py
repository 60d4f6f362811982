"""The web page of a decision, which a listener of the hook `kepler_retraining_decided` makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from kepler_core.plugins.hooks import hooks
from kepler_core.store.layout import REPORT_FILE, REPORT_LISTENER
from kepler_servers.online_trainer.retraining.comparison import CandidateResult

EARLIER_DECISIONS = 30
"""Number of earlier decisions that listeners of the hook `kepler_retraining_decided` get."""


def page_maker(
    pipeline: str, results: Sequence[CandidateResult], earlier: Sequence[Mapping[str, Any]], enabled: bool
) -> Callable[[Mapping[str, Any]], bytes | None]:
    """Return a function that makes the page of a decision. The function returns None if no listener makes a page.

    `results` has the compared candidates. `earlier` has the decisions that were recorded before, the oldest first. If
    `enabled` is false, the listener of Kepler Core's own report is not called.
    """
    samples = [entry for result in results if (entry := _samples(result)) is not None]

    def page_of(decision: Mapping[str, Any]) -> bytes | None:
        files: dict[str, bytes] = {}
        retraining = {
            "pipeline": pipeline,
            "decision": decision,
            "earlier": list(earlier)[-EARLIER_DECISIONS:],
            "samples": samples,
        }
        listeners = hooks()
        with nullcontext() if enabled else listeners.without(REPORT_LISTENER):
            listeners.call("kepler_retraining_decided", retraining=retraining, files=files)
        page = files.get(REPORT_FILE)
        return page if isinstance(page, bytes) else None

    return page_of


def _samples(result: CandidateResult) -> dict[str, Any] | None:
    """Return the samples, measurements and predictions of a candidate's evaluation; None if it was not evaluated."""
    evaluation = result.evaluation
    if evaluation is None:
        return None
    served = None if result.served is None else result.served.subset(set(evaluation.samples))
    if served is not None:
        evaluation = evaluation.subset(set(served.samples))
    return {
        "path": result.path,
        "kind": result.candidate.kind,
        "better": result.comparison.better,
        "node": [node for node, _ in evaluation.samples],
        "time": np.array([time for _, time in evaluation.samples], dtype=np.float64),
        "measured": evaluation.measured,
        "new": evaluation.predicted,
        "served": None if served is None else served.predicted,
    }
