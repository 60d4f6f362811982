"""Run the training of one job in a training process: read the request, train, publish, write the zip."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from kepler_core.atomic_files import flush_folder, whole_file
from kepler_core.errors import RecordingError, StoreError, TrainingError
from kepler_core.pipeline.observing import observe_for, read_for
from kepler_core.pipeline.train import train
from kepler_core.plugins.hooks import Hooks
from kepler_core.recording import Observations, Recording, check
from kepler_core.store import Store
from kepler_core.store.archive import archive_bytes
from kepler_servers.offline_trainer.channel import Channel, ProgressReporter, json_content
from kepler_servers.offline_trainer.disk_full import is_disk_full
from kepler_servers.offline_trainer.messages import StageStarted, Train
from kepler_servers.offline_trainer.publish_marker import PublishMarker, published_version, recovered_report
from kepler_servers.offline_trainer.request import IDLE_KEY, RECORDING_KEY, TrainRequest, read_request, wrong_recording


class UntrainableError(Exception):
    """The recording does not suffice to train any model of the pipeline."""

    def __init__(self, message: str, findings: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.findings = findings
        """The report of `kepler-model validate --json` about the recording."""


def train_job(command: Train, channel: Channel, progress: ProgressReporter, store: Store) -> dict[str, Any]:
    """Train and publish the pipeline of a job. Return the report in the format of `kepler-model train --json`.

    If an earlier attempt at the job has already published a version, only write the zip file. The returned report
    then has only the parts that the store contains.
    """
    channel.send(StageStarted("reading"))
    request = read_request(Path(command.body))
    pipeline = request.pipeline.name
    version = published_version(store, pipeline, command.job) if command.may_be_published else None
    if version is not None:
        report = recovered_report(store, pipeline, version)
    else:
        report = _train(command, request, channel, progress, store)
    _pack(command, channel, store, pipeline, report["version"])
    return dict(report)


def _train(
    command: Train, request: TrainRequest, channel: Channel, progress: ProgressReporter, store: Store
) -> Mapping[str, Any]:
    spec = request.pipeline
    listeners = Hooks()
    listeners.listen(progress)
    listeners.listen(PublishMarker(command.job))
    observations, idle = _observe(request, channel, listeners)
    try:
        return train(
            spec,
            observations,
            store,
            backend=command.backend,  # type: ignore[arg-type]
            scheduler=command.scheduler,
            jobs=command.fits,
            listeners=listeners,
            machine=request.machine,
            idle=idle,
        ).as_dict()
    except TrainingError as error:
        raise UntrainableError(str(error), _findings(request)) from error
    except Exception as error:
        # If a listener fails after the pipeline was published, the job counts as done nevertheless.
        version = None
        if progress.may_publish:
            with contextlib.suppress(StoreError):
                version = published_version(store, spec.name, command.job)
        if version is None:
            raise
        logging.warning("the pipeline is published, but: %s", error)
        report = recovered_report(store, spec.name, version)
        return {**report, "notes": [*report["notes"], f"the pipeline is published, but: {error}"]}


def _observe(request: TrainRequest, channel: Channel, listeners: Hooks) -> tuple[Observations, Observations | None]:
    """Return the observations in two recordings: of the machine under load, and of the idle machine (or None).

    The recording is dropped from memory before the recording of the idle machine is read, because the memory may be too
    small for both recordings.
    """
    spec = request.pipeline
    try:
        recording = _read(request.recording, RECORDING_KEY, request)
        listeners.call("kepler_recording_loaded", recording=recording)
        channel.send(StageStarted("preparing"))
        observations = observe_for(spec, [recording])
        del recording
        if request.idle is None:
            return observations, None
        return observations, observe_for(spec, [_read(request.idle, IDLE_KEY, request)])
    except RecordingError as error:
        raise UntrainableError(str(error), _findings(request)) from error


def _read(raw: msgspec.Raw, key: str, request: TrainRequest) -> Recording:
    try:
        return read_for(request.pipeline, bytes(raw), name=key)
    except RecordingError as error:
        raise wrong_recording(key, error) from error


def _findings(request: TrainRequest) -> dict[str, Any]:
    """Return the report of `kepler-model validate --json` about the recording."""
    recording = _read(request.recording, RECORDING_KEY, request)
    try:
        report = check(recording, use_vm_metrics=request.pipeline.use_vm_metrics, vm_guests=request.pipeline.vm_guests)
    except RecordingError as error:
        return {
            "trainable": False,
            "reason": str(error),
            "metrics": {name: metric.n_samples for name, metric in recording.metrics.items()},
            "other_metrics": list(recording.other_metrics),
        }
    findings: dict[str, Any] = json_content(report.as_dict())
    return findings


def _pack(command: Train, channel: Channel, store: Store, pipeline: str, version: int) -> None:
    """Write the zip of the published version. Only log a failure, because the pipeline is already in the store."""
    channel.send(StageStarted("packing"))
    path = Path(command.archive)
    try:
        with whole_file(path) as file:
            file.write(archive_bytes(store.snapshot(pipeline, version)))
        flush_folder(path.parent)
    except Exception as error:
        reason = "the disk is full" if is_disk_full(error) else str(error) or type(error).__name__
        logging.warning("no zip can be written: %s", reason)
