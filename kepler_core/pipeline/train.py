"""The main job: observations to published models."""

from __future__ import annotations

import datetime
import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import attrs
import msgspec

from kepler_core.containers import workload
from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError, StoreError, TrainingError, UsageError, VersionTakenError
from kepler_core.machine import Machine
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.fit import FitJob, FitResult, all_baselines
from kepler_core.pipeline.fits import Fits, best_model, reasons
from kepler_core.pipeline.load import as_document
from kepler_core.pipeline.node_types import Place, find_place
from kepler_core.pipeline.parallel import Backend, fit_all
from kepler_core.pipeline.plan import Plan, Skipped, datasets, plan, unused_nodes
from kepler_core.pipeline.plugins import used_plugins
from kepler_core.pipeline.report import Report, described
from kepler_core.pipeline.rows import training_rows
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.pipeline.validation import folds
from kepler_core.plugins import registry
from kepler_core.plugins.hooks import Events, events
from kepler_core.recording.observations import Observations
from kepler_core.store.layout import pipeline_files
from kepler_core.store.store import Store

log = logging.getLogger(__name__)


def train(
    spec: PipelineSpec,
    observations: Observations,
    store: Store,
    *,
    backend: Backend = "loky",
    scheduler: str | None = None,
    jobs: int | None = None,
    listeners: Events | None = None,
    machine: Machine | None = None,
    idle: Observations | None = None,
    profile: Mapping[str, Any] | None = None,
) -> Report:
    """Train, validate and publish all that the pipeline names and the data allows.

    The models are of the node type of the `machine`; models of other node types that the pipeline has
    in the store stay. `idle` is a recording of the machine while it did nothing, `profile` that of its
    node type (default: the one in the store), both for isolators.
    A trainer that fails on a data set is listed in `Report.failed`, the others are published.
    `TrainingError` if nothing can be published. The store is not touched before the end.
    """
    if scheduler is not None and backend != "dask":
        raise UsageError("--scheduler goes with --backend dask")
    listen = listeners or events()
    report = Report(spec.name, store.location)
    store.check_writable(spec.name)
    started = time.perf_counter()
    place = find_place(store, spec.name, machine)
    report.node_type = place.node_type
    planned = plan(spec, observations)
    fits = Fits(lambda work: fit_all(work, backend, scheduler, jobs), listen, _expected(spec, planned))
    context = IsolationContext(
        observations,
        idle,
        frozenset(map(workload, idle.container_names)) if idle is not None else frozenset(),
        place.profile() if profile is None else profile,
        place.spec.as_dict(),
    )
    work, left_out = _fit_jobs(spec, planned, context, place, fits, report, listen)
    skips = [*planned.skipped, *left_out]
    report.skipped = [skip.as_dict() for skip in skips if not skip.failed]
    not_made = [{**skip.as_dict(), "trainer": ""} for skip in skips if skip.failed]
    report.seconds["extract"] = round(time.perf_counter() - started, 3)
    if not work:
        raise TrainingError(f"nothing can be trained: {reasons([*not_made, *report.skipped])}")

    started = time.perf_counter()
    done = fits.results(work)
    report.seconds["fit"] = round(time.perf_counter() - started, 3)
    report.models = [described(result) for result in done if result.files is not None]
    report.failed = [*not_made, *(described(result) for result in done if result.files is None)]
    if not report.models:
        raise TrainingError(f"no model could be trained: {reasons(report.failed)}")

    started = time.perf_counter()
    while report.version is None:
        files = _files(spec, context, place, machine, done, report, listen)
        files |= _more_files(spec.name, files, context, place, listen)
        try:
            report.version = store.publish(spec.name, files, version=place.next_version)
        except VersionTakenError as error:
            # of another machine, perhaps: its models are to stay too
            place = find_place(store, spec.name, machine)
            if place.node_type != report.node_type:
                raise StoreError(f"{error}, and node type {report.node_type} with it: train again") from error
    report.seconds["publish"] = round(time.perf_counter() - started, 3)
    listen.send(
        "kepler_model_published",
        pipeline=spec.name,
        version=report.version,
        path=f"{store.location.rstrip('/')}/{spec.name}",
    )
    return report


def _expected(spec: PipelineSpec, planned: Plan) -> int:
    of = {"AbsPower": len(spec.abs_trainers), "DynPower": len(spec.dyn_trainers)}
    return sum(of[output_type] for _, output_type, _, _ in planned.wanted)


def _fit_jobs(
    spec: PipelineSpec,
    planned: Plan,
    context: IsolationContext,
    place: Place,
    fits: Fits,
    report: Report,
    listen: Events,
) -> tuple[list[FitJob], list[Skipped]]:
    observations = context.observations
    work: list[FitJob] = []
    abs_work: dict[tuple[str, tuple[str, ...]], list[FitJob]] = {}
    skipped = []

    def abs_model(dataset: Dataset) -> PowerModel:
        jobs = abs_work.get((dataset.source, dataset.features))
        if not jobs:
            raise PluginError(
                f"needs an AbsPower model of {dataset.source} from {', '.join(dataset.features)}, and the pipeline "
                "trains none: name trainers in abs_trainers"
            )
        return best_model(fits.results(jobs))

    context = attrs.evolve(context, abs_model=abs_model)
    lineage = {
        "data": observations.digest,
        "pipeline": pipeline_digest(spec),
        "seed": spec.seed,
        "schemas": list(observations.schemas),
    }
    if context.idle is not None:
        lineage["idle"] = context.idle.digest
    trainers = {"AbsPower": spec.abs_trainers, "DynPower": spec.dyn_trainers}
    extractor = registry.extractors.create(spec.extractor.name, spec.extractor.args)
    isolator = registry.isolators.create(spec.isolator.name, spec.isolator.args)
    for wanted, dataset in datasets(extractor, isolator, planned, context):
        if isinstance(dataset, PluginError):
            skipped.append(Skipped(*wanted[:3], str(dataset), failed=True))
            continue
        if dataset.frame.empty:
            reason = "only 0 usable timestamps: features and power are never known at the same time"
            skipped.append(Skipped(*wanted[:3], reason))
            continue
        dataset = attrs.evolve(dataset, node_type=place.node_type)
        where = dict(zip(("source", "output_type", "feature_group"), wanted[:3], strict=True))
        report.notes += [{**where, "note": note} for note in dataset.notes]
        skipped += [Skipped(*wanted[:3], reason) for reason in unused_nodes(dataset, observations)]
        listen.send("kepler_dataset_ready", dataset=dataset)
        rows = training_rows(dataset, spec.max_rows, spec.max_test_rows, spec.seed)
        try:
            made = folds(spec.validation, rows.stream, rows.time, extractor.memory)
        except TrainingError as error:
            skipped.append(Skipped(dataset.source, dataset.output_type, dataset.feature_group, str(error)))
            continue
        trivial = all_baselines(rows, made)
        validation = {
            **attrs.asdict(spec.validation),
            "measured_on": "nodes" if dataset.output_type == "AbsPower" else "sums over a node's containers",
            "timestamps": len(rows.time),
            "fit_rows": len(rows.fit_X),
        }
        made_jobs = [
            FitJob(
                rows=rows,
                folds=made,
                baselines=trivial,
                trainer=trainer.name,
                args=trainer.args,
                seed=spec.seed,
                node_type=dataset.node_type,
                machine_spec=place.spec.as_dict(),
                validation=validation,
                lineage={**lineage, "isolator": spec.isolator.name, "extractor": spec.extractor.name},
            )
            for trainer in trainers[dataset.output_type]
        ]
        work += made_jobs
        if dataset.output_type == "AbsPower":
            abs_work[dataset.source, dataset.features] = made_jobs
    fits.expect(len(work))
    return work, skipped


def pipeline_digest(spec: PipelineSpec) -> str:
    """SHA-256 of all that the pipeline says, but its name and description."""
    document = as_document(spec)
    del document["name"], document["description"]
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def _files(
    spec: PipelineSpec,
    context: IsolationContext,
    place: Place,
    machine: Machine | None,
    done: Sequence[FitResult],
    report: Report,
    listen: Events,
) -> dict[str, bytes]:
    observations = context.observations
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    metadata = {
        "name": spec.name,
        "isolator": spec.isolator.name,
        "extractor": spec.extractor.name,
        "abs_trainers": [trainer.name for trainer in spec.abs_trainers],
        "dyn_trainers": [trainer.name for trainer in spec.dyn_trainers],
        "init_time": now,
        "last_update_time": now,
        "pipeline": as_document(spec),
        "recordings": [attrs.asdict(stream) for stream in observations.streams],
        "idle_recordings": [] if context.idle is None else [attrs.asdict(stream) for stream in context.idle.streams],
        "isolation": {
            **place.kept_isolation(),
            str(place.node_type): {
                "isolator": as_document(spec)["isolator"],
                "background": sorted(context.background),
            },
        },
        "lineage": {"data": observations.digest, "pipeline": pipeline_digest(spec), "seed": spec.seed},
        "failed": report.failed,
        "skipped": report.skipped,
        "notes": report.notes,
        "plugins": used_plugins(spec, observations, listen.listeners()),
    }
    nodes = {stream.node for stream in observations.streams}
    members = nodes if machine is None or machine.id is None else {machine.id}
    models = [(result.metadata, result.files) for result in done if result.files is not None]
    files = pipeline_files(models, metadata, place.index(members), place.kept_models())
    return {**files, **place.kept_profiles()}


def _more_files(
    pipeline: str, files: Mapping[str, bytes], context: IsolationContext, place: Place, listen: Events
) -> dict[str, bytes]:
    """What listeners add to the pipeline."""
    more: dict[str, bytes] = {}
    listen.send(
        "kepler_publishing",
        pipeline=pipeline,
        files=more,
        observations=context.observations,
        idle=context.idle,
        node_type=place.node_type,
        machine_spec=context.machine_spec,
        profile=context.profile,
    )
    for name, content in list(more.items()):
        if not (isinstance(name, str) and isinstance(content, bytes)):
            log.warning("a listener added %.60r, which is no path with bytes: left out", name)
            del more[name]
            continue
        path = PurePosixPath(name)
        if name in files or path.is_absolute() or ".." in path.parts or str(path) != name:
            log.warning("a listener added the file %r, which is not a free path below the pipeline: left out", name)
            del more[name]
    return more
