"""Train a pipeline: make models from observations, validate them and publish them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import attrs

from kepler_core.contracts import IsolationContext
from kepler_core.errors import TrainingError, UsageError
from kepler_core.machine import Machine
from kepler_core.pipeline.evidence import evidence
from kepler_core.pipeline.fit import FitResult
from kepler_core.pipeline.fits import AbsModels, Fits, reasons
from kepler_core.pipeline.held_out_samples import MAX_SAMPLES, with_held_out_samples
from kepler_core.pipeline.node_types import find_slot
from kepler_core.pipeline.parallel import Backend, fit_all
from kepler_core.pipeline.plan import Plan, Skipped, Wanted, plan
from kepler_core.pipeline.preparation import Preparation, Prepared, isolation_context
from kepler_core.pipeline.publication import Publication
from kepler_core.pipeline.report import Report, described
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.pipeline.tables import TableTraining
from kepler_core.pipeline.targets import refuse_other_target, refuse_vm_target
from kepler_core.pipeline.twins import with_twins
from kepler_core.plugins.hooks import Hooks, hooks
from kepler_core.recording.findings import findings
from kepler_core.recording.observations import Observations
from kepler_core.store.store import Store


def train(
    spec: PipelineSpec,
    observations: Observations,
    store: Store,
    *,
    backend: Backend = "loky",
    scheduler: str | None = None,
    jobs: int | None = None,
    listeners: Hooks | None = None,
    machine: Machine | None = None,
    idle: Observations | None = None,
    profile: Mapping[str, Any] | None = None,
    tables: TableTraining | None = None,
) -> Report:
    """Train, validate and publish all models of the pipeline for which the observations suffice.

    The models belong to the node type of `machine`. The pipeline's models of other node types stay in the
    store. `idle` (observations of the idle machine) and `profile` (the profile of the node type; default: its
    profile in the store) are passed to the isolators. `tables`, if they are given, are the tables from which the
    observations were made: the models are trained on the rows of the tables, and no extractor is applied.

    If a trainer fails on a data set, the failure is listed in `Report.failed`, and the other models are
    published. Raise `TrainingError` if no model can be published. The store is not changed before all fits
    have ended.
    """
    if scheduler is not None and backend != "dask":
        raise UsageError("--scheduler needs --backend dask")
    listeners = listeners or hooks()
    report = Report(spec.name, store.location)
    if tables is None:
        refuse_vm_target(spec, "a recording of a machine is not enough")
    store.check_writable(spec.name)
    refuse_other_target(store, spec)
    slot = find_slot(store, spec.name, machine)
    report.node_type = slot.node_type
    report.findings = [finding.as_dict() for finding in findings(observations.counts)]
    report.pairs = [] if tables is None else list(tables.pairs)
    planned = plan(spec, observations, None if tables is None else tables.offers)
    profile = slot.profile() if profile is None else profile
    context = isolation_context(observations, idle, profile, slot.spec.as_dict())
    fits = Fits(partial(fit_all, backend=backend, scheduler=scheduler, jobs=jobs), listeners)

    preparation = Preparation(spec, context, slot, listeners, None if tables is None else tables.rows)
    prepared, results = _prepare_and_fit(preparation, planned, context, fits, report)
    fit_jobs = [job for one in prepared for job in one.jobs]
    results = with_twins(fit_jobs, results)
    _fill(report, planned, prepared, results)
    if not report.models:
        problem = "no model could be trained" if results else "nothing can be trained"
        raise TrainingError(f"{problem}: {reasons([*report.failed, *([] if results else report.skipped)])}")

    started = time.perf_counter()
    published = {
        at: evidence(job, result)
        for at, (job, result) in enumerate(zip(fit_jobs, results, strict=True))
        if result.files is not None
    }
    results = with_held_out_samples(results, published, min(spec.keep_rows, MAX_SAMPLES))
    publication = Publication(spec, context, store, machine, listeners, list(published.values()))
    report.version = publication.publish(slot, results, report)
    report.seconds["publish"] = round(time.perf_counter() - started, 3)
    listeners.call(
        "kepler_model_published",
        pipeline=spec.name,
        version=report.version,
        path=f"{store.location.rstrip('/')}/{spec.name}",
    )
    return report


def _prepare_and_fit(
    preparation: Preparation, planned: Plan, context: IsolationContext, fits: Fits, report: Report
) -> tuple[list[Prepared], list[FitResult]]:
    """Prepare and fit AbsPower data sets, then DynPower data sets, whose isolators may use AbsPower models.

    Return the prepared data sets and the results of the fits, both in the order of the plan.
    """
    prepared: dict[Wanted, Prepared] = {}
    results: dict[Wanted, list[FitResult]] = {}
    seconds = {"extract": 0.0, "fit": 0.0}
    dynamic = planned.only("DynPower")
    for part, later in ((planned.only("AbsPower"), preparation.expected(dynamic)), (dynamic, 0)):
        started = time.perf_counter()
        ready = dict(preparation.prepare(part, context))
        jobs = [job for one in ready.values() for job in one.jobs]
        extracted = time.perf_counter()
        fitted = fits.results(jobs, later)
        seconds["extract"] += extracted - started
        seconds["fit"] += time.perf_counter() - extracted
        if part is not dynamic:
            context = attrs.evolve(context, abs_model=AbsModels(jobs, fitted))
        prepared |= ready
        remaining = iter(fitted)
        results |= {wanted: [next(remaining) for _ in one.jobs] for wanted, one in ready.items()}
    report.seconds |= {name: round(value, 3) for name, value in seconds.items()}
    in_order = planned.wanted
    return [prepared[wanted] for wanted in in_order], [one for wanted in in_order for one in results[wanted]]


def _fill(report: Report, planned: Plan, prepared: list[Prepared], results: list[FitResult]) -> None:
    """Add the trained models, the failures, the skipped data sets and the notes to the report."""
    skips: list[Skipped] = [*planned.skipped, *(skip for one in prepared for skip in one.skipped)]
    report.notes = [note for one in prepared for note in one.notes]
    report.skipped = [skip.as_dict() for skip in skips if not skip.failed]
    report.models = [described(result) for result in results if result.files is not None]
    report.failed = [
        *({**skip.as_dict(), "trainer": ""} for skip in skips if skip.failed),
        *(described(result) for result in results if result.files is None),
    ]
