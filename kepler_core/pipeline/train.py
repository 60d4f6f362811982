"""The main job: observations to published models."""

from __future__ import annotations

import datetime
import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core import registry
from kepler_core.containers import workload
from kepler_core.contracts import Extractor, IsolationContext, Isolator
from kepler_core.dataset import Dataset
from kepler_core.errors import KeplerError, PluginError, StoreError, TrainingError, UsageError, VersionTakenError
from kepler_core.hooks import Events, events
from kepler_core.machine import Machine
from kepler_core.models.power_model import PowerModel, load_model
from kepler_core.pipeline.fit import FitJob, FitResult, all_baselines
from kepler_core.pipeline.load import as_document
from kepler_core.pipeline.node_types import Place, find_place
from kepler_core.pipeline.parallel import Backend, fit_all
from kepler_core.pipeline.rows import training_rows
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.pipeline.validation import folds
from kepler_core.recording.observations import Observations
from kepler_core.store.layout import model_path, pipeline_files
from kepler_core.store.store import Store
from kepler_core.vocabulary import FEATURE_GROUPS, THIRD_PARTY_GROUP, OutputType, group_features

log = logging.getLogger(__name__)


@attrs.frozen
class Skipped:
    """A data set that cannot be made, and why."""

    source: str
    output_type: str
    feature_group: str
    reason: str
    failed: bool = False
    """Not what the data allows, but something that went wrong or was asked for by name."""

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self, filter=lambda field, _: field.name != "failed")


@attrs.define
class Report:
    """What a training did; `as_dict` is `train --json`."""

    pipeline: str
    store: str
    version: int | None = None
    models: list[dict[str, Any]] = attrs.field(factory=list)
    failed: list[dict[str, Any]] = attrs.field(factory=list)
    skipped: list[dict[str, Any]] = attrs.field(factory=list)
    notes: list[dict[str, Any]] = attrs.field(factory=list)
    """What isolators had to say of a data set."""
    node_type: int = 0
    seconds: dict[str, float] = attrs.field(factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self)


Wanted = tuple[str, OutputType, str, tuple[str, ...]]
"""(source, output type, feature group, features) of a data set."""


@attrs.frozen
class Plan:
    """Which data sets a pipeline makes of observations."""

    wanted: tuple[Wanted, ...]
    skipped: tuple[Skipped, ...]


def plan(spec: PipelineSpec, observations: Observations) -> Plan:
    """Which energy sources and feature groups can be trained; what cannot, with the reason."""
    available = observations.sources
    if not available and spec.energy_sources == "auto":
        return Plan((), (Skipped("", "", "", "no power of any energy source in the data"),))
    sources = list(available) if spec.energy_sources == "auto" else list(spec.energy_sources)
    groups = spec.feature_groups
    if groups == "auto":
        groups = [*FEATURE_GROUPS, *([THIRD_PARTY_GROUP] if spec.third_party else [])]
    types: list[tuple[OutputType, list[PluginSpec]]] = [
        ("AbsPower", spec.abs_trainers),
        ("DynPower", spec.dyn_trainers),
    ]
    known = set(observations.features)
    wanted, skipped = [], []
    for source in sources:
        for output_type, trainers in types:
            if not trainers:
                continue
            for group in groups:
                features = group_features(group, spec.third_party)
                missing = [feature for feature in features if feature not in known]
                if source not in available:
                    reason = f"no power of {source} in the data"
                elif missing:
                    reason = f"no {', '.join(missing)} in the data"
                elif output_type == "DynPower" and not any(
                    feature in observations.container_features for feature in features
                ):
                    reason = f"{', '.join(features)}: counted by node only, not by container"
                else:
                    wanted.append((source, output_type, group, features))
                    continue
                by_name = (source not in available and spec.energy_sources != "auto") or (
                    bool(missing) and spec.feature_groups != "auto"
                )
                skipped.append(Skipped(source, output_type, group, reason, failed=by_name))
    return Plan(tuple(wanted), tuple(skipped))


def datasets(
    extractor: Extractor, isolator: Isolator, planned: Plan, context: IsolationContext
) -> Iterator[tuple[Wanted, Dataset | PluginError]]:
    """The data sets of a plan, one after the other, ready to train on; or why one cannot be made."""
    for wanted in planned.wanted:
        try:
            yield wanted, _dataset_of(wanted, extractor, isolator, context)
        except PluginError as error:
            yield wanted, error


def _dataset_of(wanted: Wanted, extractor: Extractor, isolator: Isolator, context: IsolationContext) -> Dataset:
    """One data set; `PluginError` names the extractor or isolator that raised."""
    source, output_type, group, features = wanted
    observations = context.observations
    dynamic = output_type == "DynPower"
    components = observations.sources[source]
    at: Extractor | Isolator = extractor
    try:
        dataset = extractor.extract(observations, features, source, components, by_container=dynamic)
        dataset = attrs.evolve(dataset, feature_group=group)
        if dynamic and not dataset.frame.empty:
            at = isolator
            dataset = isolator.isolate(dataset, context)
    except KeplerError as error:
        raise PluginError(f"{type(at).__name__}: {error}") from error
    except Exception as error:  # somebody else's code
        raise PluginError(f"{type(at).__name__} failed: {registry.one_line(error)}") from error
    return attrs.evolve(dataset, output_type=output_type)


def _unused(dataset: Dataset, observations: Observations) -> list[str]:
    """Nodes of which no row is in a data set, and what they lack."""
    used = {(row[0], row[1]) for row in dataset.index[dataset.first_rows].droplevel(2).unique()}
    reasons = []
    for code, stream in enumerate(observations.streams):
        if (stream.recording, stream.node) in used:
            continue
        mine = observations.instant_stream == code
        columns = {name: observations.node_features[name] for name in dataset.features}
        columns |= {component: observations.power[dataset.source, component] for component in dataset.components}
        lacking = [name for name, column in columns.items() if not np.isfinite(column[mine]).any()]
        why = f"no {', '.join(lacking)}" if lacking else "no timestamp at which all is known"
        reasons.append(f"node {stream.node!r} of {stream.recording} is not used: {why}")
    return reasons


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
    fits = _Fits(lambda work: fit_all(work, backend, scheduler, jobs), listen, _expected(spec, planned))
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
        raise TrainingError(f"nothing can be trained: {_reasons([*not_made, *report.skipped])}")

    started = time.perf_counter()
    done = fits.results(work)
    report.seconds["fit"] = round(time.perf_counter() - started, 3)
    report.models = [_described(result) for result in done if result.files is not None]
    report.failed = [*not_made, *(_described(result) for result in done if result.files is None)]
    if not report.models:
        raise TrainingError(f"no model could be trained: {_reasons(report.failed)}")

    started = time.perf_counter()
    while report.version is None:
        files = _files(spec, context, place, machine, done, report)
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


def _reasons(skipped: Sequence[Mapping[str, Any]]) -> str:
    seen = dict.fromkeys(str(skip["reason"]) for skip in skipped)
    shown = list(seen)[:3]
    return "; ".join(shown) + ("; …" if len(seen) > 3 else "") or "the pipeline names nothing"


def _expected(spec: PipelineSpec, planned: Plan) -> int:
    of = {"AbsPower": len(spec.abs_trainers), "DynPower": len(spec.dyn_trainers)}
    return sum(of[output_type] for _, output_type, _, _ in planned.wanted)


class _Fits:
    """The fits of one training, each done once whoever asks for it first."""

    def __init__(
        self,
        run: Callable[[Sequence[FitJob]], Iterator[tuple[int, FitResult]]],
        listen: Events,
        expected: int,
    ) -> None:
        self._run = run
        self._listen = listen
        self._expected = expected
        self._done: dict[FitJob, FitResult] = {}
        self._started = False

    def results(self, work: Sequence[FitJob]) -> list[FitResult]:
        """The results, in the order of the jobs."""
        todo = [job for job in work if job not in self._done]
        if not self._started:
            self._started = True
            self._listen.send("kepler_training_started", models=self._expected)
        for index, result in self._run(todo) if todo else ():
            self._done[todo[index]] = result
            self._listen.send("kepler_model_trained", model=_described(result))
        return [self._done[job] for job in work]

    def expect(self, models: int) -> None:
        """So many fits in all, if none has begun yet."""
        self._expected = models


def _best(results: Sequence[FitResult]) -> PowerModel:
    """The model with the lowest validation error; `PluginError` if none could be trained."""
    done = [result for result in results if result.files is not None]
    if not done:
        raise PluginError(f"no AbsPower model could be trained: {_reasons([{'reason': r.reason} for r in results])}")
    best = min(done, key=lambda result: float(result.metadata["mae"]))
    assert best.files is not None
    return load_model(best.files, str(best.metadata["model_name"]))


def _fit_jobs(
    spec: PipelineSpec,
    planned: Plan,
    context: IsolationContext,
    place: Place,
    fits: _Fits,
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
        return _best(fits.results(jobs))

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
        skipped += [Skipped(*wanted[:3], reason) for reason in _unused(dataset, observations)]
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


def _described(result: FitResult) -> dict[str, Any]:
    if result.files is None:
        return {**result.key, "reason": result.reason}
    metadata = result.metadata
    components = metadata["validation"]["components"]
    return {
        **result.key,
        "model_name": metadata["model_name"],
        "node_type": metadata["node_type"],
        "path": model_path(metadata),
        "mae": metadata["mae"],
        "mape": metadata["mape"],
        "components": {
            component: {k: v for k, v in found.items() if k not in ("constant_mae", "line_mae")}
            for component, found in components.items()
        },
        "baselines": {
            component: {"constant_mae": found["constant_mae"], "line_mae": found["line_mae"]}
            for component, found in components.items()
        },
    }


def _files(
    spec: PipelineSpec,
    context: IsolationContext,
    place: Place,
    machine: Machine | None,
    done: Sequence[FitResult],
    report: Report,
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
        "background": sorted(context.background),
        "lineage": {"data": observations.digest, "pipeline": pipeline_digest(spec), "seed": spec.seed},
        "failed": report.failed,
        "skipped": report.skipped,
        "notes": report.notes,
    }
    nodes = {stream.node for stream in observations.streams}
    members = nodes if machine is None or machine.id is None else {machine.id}
    models = [(result.metadata, result.files) for result in done if result.files is not None]
    return {**pipeline_files([*place.kept_models(), *models], metadata, place.index(members)), **place.kept_profiles()}


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
    for name in list(more):
        path = PurePosixPath(name)
        if name in files or path.is_absolute() or ".." in path.parts or str(path) != name:
            log.warning("a listener added the file %r, which is not a free path below the pipeline: left out", name)
            del more[name]
    return more
