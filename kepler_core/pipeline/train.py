"""The main job: observations to published models."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import attrs
import joblib
import msgspec
import numpy as np
from threadpoolctl import threadpool_limits

from kepler_core import registry
from kepler_core.contracts import Extractor, Isolator
from kepler_core.dataset import Dataset
from kepler_core.errors import MissingExtraError, PluginError, TrainingError, UsageError
from kepler_core.hooks import Events, events
from kepler_core.pipeline.fit import FitJob, FitResult, all_baselines, fit
from kepler_core.pipeline.load import as_document
from kepler_core.pipeline.rows import training_rows
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.pipeline.validation import folds
from kepler_core.recording.observations import Observations
from kepler_core.store.layout import model_path, pipeline_files
from kepler_core.store.store import Store
from kepler_core.vocabulary import FEATURE_GROUPS, THIRD_PARTY_GROUP, OutputType, group_features

Backend = Literal["loky", "threading", "dask"]


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
    extractor: Extractor, isolator: Isolator, observations: Observations, planned: Plan
) -> Iterator[tuple[Wanted, Dataset | PluginError]]:
    """The data sets of a plan, one after the other, ready to train on; or why one cannot be made."""
    for wanted in planned.wanted:
        try:
            yield wanted, _dataset_of(wanted, observations, extractor, isolator)
        except PluginError as error:
            yield wanted, error


def _dataset_of(wanted: Wanted, observations: Observations, extractor: Extractor, isolator: Isolator) -> Dataset:
    """One data set; `PluginError` names the extractor or isolator that raised."""
    source, output_type, group, features = wanted
    dynamic = output_type == "DynPower"
    components = observations.sources[source]
    at: Extractor | Isolator = extractor
    try:
        dataset = extractor.extract(observations, features, source, components, by_container=dynamic)
        if dynamic:
            at = isolator
            dataset = isolator.isolate(dataset)
    except Exception as error:  # somebody else's code
        raise PluginError(f"{type(at).__name__} failed: {registry.one_line(error)}") from error
    return attrs.evolve(dataset, feature_group=group, output_type=output_type)


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
) -> Report:
    """Train, validate and publish all that the pipeline names and the data allows.

    A trainer that fails on a data set is listed in `Report.failed`, the others are published.
    `TrainingError` if nothing can be published. The store is not touched before the end.
    """
    if scheduler is not None and backend != "dask":
        raise UsageError("--scheduler goes with --backend dask")
    listen = listeners or events()
    report = Report(spec.name, store.location)
    store.check_writable(spec.name)
    started = time.perf_counter()
    planned = plan(spec, observations)
    work, left_out = _fit_jobs(spec, observations, planned, listen)
    skips = [*planned.skipped, *left_out]
    report.skipped = [skip.as_dict() for skip in skips if not skip.failed]
    not_made = [{**skip.as_dict(), "trainer": ""} for skip in skips if skip.failed]
    report.seconds["extract"] = round(time.perf_counter() - started, 3)
    if not work:
        raise TrainingError(f"nothing can be trained: {_reasons([*not_made, *report.skipped])}")

    started = time.perf_counter()
    listen.send("kepler_training_started", models=len(work))
    results: list[FitResult | None] = [None] * len(work)
    for index, result in _run(work, backend, scheduler, jobs):
        results[index] = result
        listen.send("kepler_model_trained", model=_described(result))
    done = [result for result in results if result is not None]
    report.seconds["fit"] = round(time.perf_counter() - started, 3)
    report.models = [_described(result) for result in done if result.files is not None]
    report.failed = [*not_made, *(_described(result) for result in done if result.files is None)]
    if not report.models:
        raise TrainingError(f"no model could be trained: {_reasons(report.failed)}")

    started = time.perf_counter()
    report.version = store.publish(spec.name, _files(spec, observations, done, report))
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


def _fit_jobs(
    spec: PipelineSpec, observations: Observations, planned: Plan, listen: Events
) -> tuple[list[FitJob], list[Skipped]]:
    work: list[FitJob] = []
    skipped = []
    lineage = {
        "data": observations.digest,
        "pipeline": pipeline_digest(spec),
        "seed": spec.seed,
        "schemas": list(observations.schemas),
    }
    trainers = {"AbsPower": spec.abs_trainers, "DynPower": spec.dyn_trainers}
    extractor = registry.extractors.create(spec.extractor.name, spec.extractor.args)
    isolator = registry.isolators.create(spec.isolator.name, spec.isolator.args)
    for wanted, dataset in datasets(extractor, isolator, observations, planned):
        if isinstance(dataset, PluginError):
            skipped.append(Skipped(*wanted[:3], str(dataset), failed=True))
            continue
        if dataset.frame.empty:
            reason = "only 0 usable timestamps: features and power are never known at the same time"
            skipped.append(Skipped(*wanted[:3], reason))
            continue
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
        work += [
            FitJob(
                rows=rows,
                folds=made,
                baselines=trivial,
                trainer=trainer.name,
                args=trainer.args,
                seed=spec.seed,
                node_type=dataset.node_type,
                machine_spec={},
                validation=validation,
                lineage={**lineage, "isolator": spec.isolator.name, "extractor": spec.extractor.name},
            )
            for trainer in trainers[dataset.output_type]
        ]
    return work, skipped


def pipeline_digest(spec: PipelineSpec) -> str:
    """SHA-256 of all that the pipeline says, but its name and description."""
    document = as_document(spec)
    del document["name"], document["description"]
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def _fit_numbered(index: int, job: FitJob) -> tuple[int, FitResult]:
    return index, fit(job)


def _run(
    work: Sequence[FitJob], backend: Backend, scheduler: str | None, jobs: int | None
) -> Iterator[tuple[int, FitResult]]:
    """Results as they come, with the index of their job."""
    # the limit is the whole process': a thread that sets it for itself would lift it for the others
    if backend == "threading" or jobs == 1:
        with threadpool_limits(1):
            yield from _parallel(work, backend, scheduler, jobs)
    else:
        yield from _parallel(work, backend, scheduler, jobs)


def _parallel(
    work: Sequence[FitJob], backend: Backend, scheduler: str | None, jobs: int | None
) -> Iterator[tuple[int, FitResult]]:
    calls = (joblib.delayed(_fit_numbered)(index, job) for index, job in enumerate(work))
    with _backend(backend, scheduler, jobs):
        if backend == "dask":
            # joblib's dask backend returns all at once
            yield from joblib.Parallel(n_jobs=-1)(calls)
            return
        n_jobs = min(jobs or os.cpu_count() or 1, len(work))
        if n_jobs == 1:
            yield from (_fit_numbered(index, job) for index, job in enumerate(work))
            return
        yield from joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", max_nbytes=None)(calls)


@contextlib.contextmanager
def _backend(backend: Backend, scheduler: str | None, jobs: int | None) -> Iterator[None]:
    if backend != "dask":
        with joblib.parallel_config(backend=backend):
            yield
        return
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError("--backend dask", "dask", "distributed") from error
    if scheduler is None:
        with (
            distributed.LocalCluster(
                n_workers=jobs or os.cpu_count() or 1,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",  # any free port: 8787 may be another cluster's
                silence_logs=logging.ERROR,
            ) as cluster,
            distributed.Client(cluster),
            joblib.parallel_config(backend="dask"),
        ):
            yield
        return
    try:
        client = distributed.Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client, joblib.parallel_config(backend="dask"):
        yield


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
    spec: PipelineSpec, observations: Observations, done: Sequence[FitResult], report: Report
) -> dict[str, bytes]:
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
        "lineage": {"data": observations.digest, "pipeline": pipeline_digest(spec), "seed": spec.seed},
        "failed": report.failed,
        "skipped": report.skipped,
    }
    members = sorted({stream.node for stream in observations.streams})
    node_types = {"0": {"attrs": {}, "members": members}}
    models = [(result.metadata, result.files) for result in done if result.files is not None]
    return pipeline_files(models, metadata, node_types)
