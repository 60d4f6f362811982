"""The program of the retraining process: run one retraining.

A retraining takes these steps. If the process is killed between two steps, at most one training is lost.

1. Record new power shifts.
2. Train challengers, and publish them in a model store of their own.
3. Compare the challengers with the served models.
4. Train the better challengers once more, on all samples.
5. Publish these models, with the decision in their metadata.
6. Record the decision in the model store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.contracts import IsolationContext
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import KeplerError
from kepler_core.logs import configure_logging
from kepler_core.machine import Machine, machine_spec_from
from kepler_core.parent_watch import end_with_parent
from kepler_core.pipeline.load import pipeline_from
from kepler_core.pipeline.next_version import timestamp
from kepler_core.store import open_store
from kepler_servers.online_trainer.retraining.candidates import ChallengerTrainer, make_candidates
from kepler_servers.online_trainer.retraining.comparison import best_by_path, compare_candidates
from kepler_servers.online_trainer.retraining.decision_page import page_maker
from kepler_servers.online_trainer.retraining.evaluation import Evaluator
from kepler_servers.online_trainer.retraining.inputs import (
    SampleSplit,
    newest_time,
    read_samples,
    read_served,
    record_new_shifts,
)
from kepler_servers.online_trainer.retraining.isolation import AbsModels, node_type_profile, with_profile_isolator
from kepler_servers.online_trainer.retraining.publishing import Outcome, publish_better
from kepler_servers.online_trainer.retraining.refit import refit_winners
from kepler_servers.online_trainer.retraining.restated_errors import restate_models
from kepler_servers.online_trainer.retraining.task import RetrainingTask
from kepler_servers.online_trainer.state_folder import StateFolder


def retrain(task: RetrainingTask) -> dict[str, Any]:
    """Run one retraining, and return the decision that was recorded in the model store."""
    started = time.monotonic()
    spec = pipeline_from(task.pipeline, "pipeline")
    store = open_store(task.store)
    store.check_writable(spec.name)
    state = StateFolder(Path(task.state))
    machine = None if task.machine_spec is None else Machine(machine_spec_from(task.machine_spec, "machine"))
    served = read_served(store, spec.name, machine)
    samples = read_samples(state, served, task.trigger)
    shifts = record_new_shifts(state, samples)
    samples = samples.shifted(shifts)
    profile = node_type_profile(samples.training, served.slot)
    spec = with_profile_isolator(spec, profile)
    trainer = ChallengerTrainer(state, task.jobs, machine, profile, served.snapshot)
    candidates = make_candidates(task, spec, served, samples, shifts, trainer)
    abs_models = AbsModels(served.own, candidates.by_path)
    machine_spec = served.slot.spec.as_dict()
    context = IsolationContext(samples.all, profile=profile, machine_spec=machine_spec, abs_model=abs_models)
    evaluator = Evaluator(context, spec, samples.held_out)
    results = compare_candidates(evaluator, served.own, candidates.by_path)
    best = best_by_path(results)
    refitted = refit_winners(best, spec, samples.all, evaluator, trainer)
    winners = {path: result.candidate for path, result in best.items()} | refitted
    restated = restate_models(evaluator, served.own, winners)
    decision: dict[str, Any] = {
        "isolator": spec.isolator.name,
        "time": timestamp(),
        "trigger": "law change" if shifts else task.trigger,
        "node_type": served.slot.node_type,
        "data_until": newest_time(samples.all),
        "instants": len(samples.training.sample_time),
        **_judged_on(samples),
        "served_until": max((served.trained_until.get(path, 0.0) for path in served.own), default=None),
        "observed": task.observed,
        "law_changes": msgspec.to_builtins(shifts),
        "trained_on_all": sorted(refitted),
        "models": [result.as_dict() for result in results],
        "problem": candidates.problem,
        "seconds": round(time.monotonic() - started, 1),
    }
    page_of = page_maker(spec.name, results, store.decisions(spec.name), task.report)
    publish_better(store, spec.name, served, Outcome(candidates, results, winners, restated), decision, page_of)
    # a published version already contains the page as report.html, so the page is not stored a second time
    store.record_decision(spec.name, decision, None if decision["version"] is not None else page_of(decision))
    return decision


def _judged_on(samples: SampleSplit) -> dict[str, Any]:
    """Return the number of held-out samples, and their first and last time in Unix seconds (None if there are none)."""
    times = samples.all.sample_time[samples.held_out.covers(samples.all.sample_time)]
    first, last = (float(times.min()), float(times.max())) if len(times) else (None, None)
    return {"held_out": len(times), "held_out_from": first, "held_out_until": last}


def main() -> None:
    """Read a task from standard input, and write its decision or `{"error": reason}` to standard output."""
    end_with_parent()
    # redirect standard output to standard error, so that the output of trainer plugins is not mixed with the decision
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    configure_logging(logging.INFO)
    try:
        task = decode_json(sys.stdin.buffer.read(), RetrainingTask)
    except DocumentError as error:
        # a task is incomplete if the online trainer was killed while writing it
        sys.exit(f"the retraining's task is incomplete, the online trainer has ended: {error}")
    try:
        result = retrain(task)
    except KeplerError as error:
        result = {"error": str(error)}
    # If the online trainer was killed, it cannot receive the decision. The decision is in the model store, too.
    with contextlib.suppress(BrokenPipeError), answer:
        answer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
