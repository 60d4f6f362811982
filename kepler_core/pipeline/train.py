"""Train a pipeline: make models from observations, validate them and publish them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec

from kepler_core.contracts import IsolationContext
from kepler_core.errors import TrainingError, UsageError
from kepler_core.machine import Machine
from kepler_core.pipeline.evidence import evidence
from kepler_core.pipeline.fit import FitResult
from kepler_core.pipeline.fits import AbsModels, Fits, reasons
from kepler_core.pipeline.held_out_samples import MAX_SAMPLES, with_held_out_samples
from kepler_core.pipeline.machine_groups import MachineGroup
from kepler_core.pipeline.node_comparison import compare_nodes
from kepler_core.pipeline.node_tables import NodeTable
from kepler_core.pipeline.node_types import find_slots
from kepler_core.pipeline.parallel import Backend, fit_all
from kepler_core.pipeline.plan import Plan, Skipped, Wanted, plan
from kepler_core.pipeline.preparation import Preparation, Prepared, isolation_context
from kepler_core.pipeline.publication import Publication, TypeTraining
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
    groups: Sequence[MachineGroup] = (),
) -> Report:
    """Train, validate and publish all models of the pipeline for which the observations suffice.

    The models belong to the node type of `machine`. The pipeline's models of other node types stay in the
    store. `idle` (observations of the idle machine) and `profile` (the profile of the node type; default: its
    profile in the store) are passed to the isolators. `tables`, if they are given, are the tables from which the
    observations were made: the models are trained on the rows of the tables, and no extractor is applied.
    `groups` are the nodes of the observations by node type: models are trained for each type, and published as one
    version. They replace `machine`, `idle` and `profile`.

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
    report.findings = [finding.as_dict() for finding in findings(observations.counts)]
    report.pairs = [] if tables is None else list(tables.pairs)
    fits = Fits(partial(fit_all, backend=backend, scheduler=scheduler, jobs=jobs), listeners, max(len(groups), 1))
    one = MachineGroup(machine, observations, idle)
    trainings = _train_types(spec, groups or [one], store, fits, report, listeners, profile, tables)
    started = time.perf_counter()
    publication = Publication(spec, observations, idle, store, listeners, trainings)
    report.version = publication.publish(report)
    report.seconds["publish"] = round(time.perf_counter() - started, 3)
    listeners.call(
        "kepler_model_published",
        pipeline=spec.name,
        version=report.version,
        path=f"{store.location.rstrip('/')}/{spec.name}",
    )
    return report


def _train_types(
    spec: PipelineSpec,
    groups: Sequence[MachineGroup],
    store: Store,
    fits: Fits,
    report: Report,
    listeners: Hooks,
    profile: Mapping[str, Any] | None,
    tables: TableTraining | None,
) -> list[TypeTraining]:
    """Train the models of each node type, and fill the report.

    Return the trainings of the node types that have models. Raise `TrainingError` if no node type has models.
    """
    slots = find_slots(store, spec.name, [group.machine for group in groups])
    trainings = []
    fitted = False
    for slot, group in zip(slots, groups, strict=True):
        planned = plan(spec, group.observations, None if tables is None else tables.offers)
        own_profile = slot.profile() if profile is None else profile
        context = isolation_context(group.observations, group.idle, own_profile, slot.spec.as_dict())
        preparation = Preparation(spec, context, slot, listeners, None if tables is None else tables.rows)
        prepared, results = _prepare_and_fit(preparation, planned, context, fits, report)
        fitted = fitted or bool(results)
        fit_jobs = [job for one in prepared for job in one.jobs]
        results = with_twins(fit_jobs, results)
        models = len(report.models)
        _fill(report, planned, prepared, results, slot.node_type if len(groups) > 1 else None)
        if len(report.models) == models:
            continue
        published = {
            at: evidence(job, result)
            for at, (job, result) in enumerate(zip(fit_jobs, results, strict=True))
            if result.files is not None
        }
        results = with_held_out_samples(results, published, min(spec.keep_rows, MAX_SAMPLES))
        nodes = _node_tables(group, slot.node_type, planned) if tables is None else []
        trainings.append(TypeTraining(slot, group.machine, context, results, list(published.values()), nodes))
        report.nodes += [msgspec.to_builtins(table) for table in nodes]
    if not trainings:
        problem = "no model could be trained" if fitted else "nothing can be trained"
        raise TrainingError(f"{problem}: {reasons([*report.failed, *([] if fitted else report.skipped)])}")
    report.node_types = [training.slot.node_type for training in trainings]
    report.node_type = report.node_types[0]
    return trainings


def _node_tables(group: MachineGroup, node_type: int, planned: Plan) -> list[NodeTable]:
    """Return the tables that compare the nodes of a node type; an empty list if there is only one node."""
    if len({stream.node for stream in group.observations.streams}) < 2:
        return []
    return compare_nodes(group.observations, node_type, sources={source for source, *_ in planned.wanted})


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
    for name, value in seconds.items():
        report.seconds[name] = round(report.seconds.get(name, 0.0) + value, 3)
    in_order = planned.wanted
    return [prepared[wanted] for wanted in in_order], [one for wanted in in_order for one in results[wanted]]


def _fill(
    report: Report, planned: Plan, prepared: list[Prepared], results: list[FitResult], node_type: int | None
) -> None:
    """Add the trained models, the failures, the skipped data sets and the notes to the report.

    `node_type` is the number of the node type, if the training has several.
    """
    place = {} if node_type is None else {"node_type": node_type}
    skips: list[Skipped] = [*planned.skipped, *(skip for one in prepared for skip in one.skipped)]
    report.notes += [{**note, **place} for one in prepared for note in one.notes]
    report.skipped += [{**skip.as_dict(), **place} for skip in skips if not skip.failed]
    report.models += [described(result) for result in results if result.files is not None]
    report.failed += [
        *({**skip.as_dict(), "trainer": "", **place} for skip in skips if skip.failed),
        *({**described(result), **place} for result in results if result.files is None),
    ]
