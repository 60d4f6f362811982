"""Candidates: models that may be published, retrained or recalibrated."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kepler_core.documents import decode_object
from kepler_core.errors import ModelError, TrainingError
from kepler_core.machine import Machine
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import METADATA_FILE, PowerModel
from kepler_core.models.recalibration import Correction, recalibrated
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.pipeline.train import train
from kepler_core.recording.observations import Observations
from kepler_core.store import Snapshot
from kepler_core.store.local import VERSIONS, LocalStore
from kepler_core.store.manifest import MANIFEST_FILE
from kepler_core.store.models import StoredModel, read_models
from kepler_servers.online_trainer.power_shift import Line, PowerShift, common_lines
from kepler_servers.online_trainer.retraining.inputs import SampleSplit, ServedModels, newest_time
from kepler_servers.online_trainer.retraining.task import RetrainingTask
from kepler_servers.online_trainer.state_folder import StateFolder

log = logging.getLogger(__name__)

KEPT_VERSIONS = 5
"""Versions that are kept in the store of challengers."""


@attrs.frozen(eq=False)
class Candidate:
    """A model that may be published."""

    kind: str
    """"retrained" or "recalibrated"."""
    metadata: Mapping[str, Any]
    files: Mapping[str, bytes]
    trained_until: float
    """Time of the newest sample it was trained on, Unix seconds."""

    @property
    def source(self) -> str:
        return str(self.metadata["source"])

    @property
    def output_type(self) -> str:
        return str(self.metadata["output_type"])

    @property
    def feature_group(self) -> str:
        return str(self.metadata["feature_group"])

    def load(self) -> PowerModel:
        """Load the model."""
        return load_model(self.files, str(self.metadata["model_name"]))


@attrs.frozen
class Candidates:
    """All candidates of a retraining."""

    by_path: Mapping[str, Sequence[Candidate]]
    base: Snapshot | None
    """The version on which a publication builds: the newest challengers, else what is served."""
    problem: str | None
    """Why nothing could be trained."""


@attrs.frozen
class ChallengerTrainer:
    """A trainer that publishes challengers in a store of their own.

    Each version builds on the served one, so the models and profiles of other node types stay.
    """

    state: StateFolder
    jobs: int
    machine: Machine | None
    profile: Mapping[str, Any] | None
    served: Snapshot | None

    def train(self, spec: PipelineSpec, observations: Observations) -> tuple[Snapshot, dict[str, Candidate]]:
        """Train a pipeline and return the challengers' version and models by path; `TrainingError` if none."""
        store = LocalStore(self.state.challengers)
        if self.served is not None:
            names = self.served.names - {MANIFEST_FILE}
            store.publish(spec.name, {name: self.served.read(name) for name in sorted(names)})
        report = train(spec, observations, store, jobs=self.jobs, machine=self.machine, profile=self.profile)
        for version in store.versions(spec.name)[:-KEPT_VERSIONS]:
            shutil.rmtree(store.root / VERSIONS / spec.name / str(version), ignore_errors=True)
        snapshot = store.snapshot(spec.name, report.version)
        until = newest_time(observations)
        return snapshot, {
            entry.path: Candidate("retrained", entry.metadata, read_files(entry), until)
            for entry in read_models(snapshot)
            if entry.node_type == report.node_type
        }


def make_candidates(
    task: RetrainingTask,
    spec: PipelineSpec,
    served: ServedModels,
    samples: SampleSplit,
    shifts: Sequence[PowerShift],
    trainer: ChallengerTrainer,
) -> Candidates:
    """Recalibrate the served models after a power shift, and train challengers if that is due or needed."""
    by_path: dict[str, list[Candidate]] = {}
    if shifts and served.own:
        for path, candidate in _recalibrate(served.own, shifts, samples.training).items():
            by_path.setdefault(path, []).append(candidate)
    base, problem = served.snapshot, None
    if task.train_all or not shifts or not by_path:
        try:
            base, challengers = trainer.train(spec, samples.training)
            for path, candidate in challengers.items():
                by_path.setdefault(path, []).append(candidate)
        except TrainingError as error:
            problem = str(error)
    return Candidates(by_path, base, problem)


def _recalibrate(
    served: Mapping[str, StoredModel], shifts: Sequence[PowerShift], training: Observations
) -> dict[str, Candidate]:
    """Return the served models whose watts follow the shifts, by path."""
    lines = common_lines(shifts, sorted({stream.node for stream in training.streams}))
    if lines is None:
        log.info("the power of the nodes has shifted differently: their common models cannot be recalibrated")
        return {}
    candidates = {}
    for path, entry in served.items():
        corrections = _corrections(entry, lines)
        if not entry.portable or not corrections:
            continue
        try:
            files = recalibrated(read_files(entry), corrections)
        except ModelError as error:
            log.warning("%s cannot be recalibrated: %s", path, error)
            continue
        metadata = decode_object(files[METADATA_FILE])
        candidates[path] = Candidate("recalibrated", metadata, files, newest_time(training))
    return candidates


def _corrections(entry: StoredModel, lines: Mapping[str, Line]) -> dict[str, Correction]:
    """Return component -> correction, of the model's energy source."""
    corrections = {}
    for key, line in lines.items():
        source, _, component = key.rpartition(".")
        if source == entry.source:
            # an offset belongs to the node, whatever its containers do
            corrections[component] = Correction(line.scale, line.offset if entry.output_type == "AbsPower" else 0.0)
    return corrections


def read_files(entry: StoredModel) -> dict[str, bytes]:
    """Read a stored model's files, by path below the model."""
    start = entry.path + "/"
    names = (name for name in entry.snapshot.names if name.startswith(start))
    return {name.removeprefix(start): entry.snapshot.read(name) for name in sorted(names)}
