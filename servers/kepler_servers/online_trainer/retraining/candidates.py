"""Make the candidates of a retraining: models that are published if they are better than the served models.

A candidate is either "retrained" (a challenger, which is trained anew) or "recalibrated" (a served model that is
corrected for a power shift).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kepler_core.documents import decode_object
from kepler_core.errors import ModelError, TrainingError
from kepler_core.machine import Machine
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import METADATA_FILE, PowerModel
from kepler_core.models.recalibration import Correction, recalibrated
from kepler_core.pipeline.next_version import read_files
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.pipeline.train import train
from kepler_core.plugins.hooks import hooks
from kepler_core.recording.observations import Observations
from kepler_core.store import Snapshot
from kepler_core.store.layout import REPORT_FILE, REPORT_LISTENER
from kepler_core.store.local import LocalStore
from kepler_core.store.manifest import MANIFEST_FILE
from kepler_core.store.models import StoredModel, read_models
from kepler_servers.online_trainer.power_shift import Line, PowerShift, common_lines
from kepler_servers.online_trainer.retraining.inputs import SampleSplit, ServedModels, newest_time
from kepler_servers.online_trainer.retraining.task import RetrainingTask
from kepler_servers.online_trainer.state_folder import StateFolder

log = logging.getLogger(__name__)

KEPT_VERSIONS = 5
"""Number of versions to keep in the model store of challengers; older versions are deleted."""


@attrs.frozen(eq=False)
class Candidate:
    """A model that is published if it is better than the served model at the same path in the pipeline."""

    kind: str
    """How the candidate was made: "retrained" or "recalibrated"."""
    metadata: Mapping[str, Any]
    files: Mapping[str, bytes]
    trained_until: float
    """Time of the newest sample that the model was trained or recalibrated on, Unix seconds."""

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
    """Version of the pipeline from which a publication takes all files except the models.

    If challengers were trained, this is the version that contains them. Otherwise, it is the served version, or None if
    no version is served.
    """
    problem: str | None
    """Reason why no challenger could be trained; None if training succeeded or was not tried."""


@attrs.frozen
class ChallengerTrainer:
    """Trains challengers, and publishes them in a separate model store, the store of challengers.

    Before each training, the trainer copies the served version to the store of challengers. So the version with
    the challengers also contains the models and profiles of other node types.
    """

    state: StateFolder
    jobs: int
    machine: Machine | None
    profile: Mapping[str, Any] | None
    served: Snapshot | None

    def train(self, spec: PipelineSpec, observations: Observations) -> tuple[Snapshot, dict[str, Candidate]]:
        """Train challengers. Return the pipeline version that contains them, and the challengers by path.

        Raises `TrainingError` if no model can be trained.
        """
        store = LocalStore(self.state.challengers)
        if self.served is not None:
            names = self.served.names - {MANIFEST_FILE, REPORT_FILE}
            store.publish(spec.name, {name: self.served.read(name) for name in sorted(names)})
        # The version with all challengers gets no report: the page of the decision describes them.
        with hooks().without(REPORT_LISTENER):
            report = train(spec, observations, store, jobs=self.jobs, machine=self.machine, profile=self.profile)
        store.prune(spec.name, KEPT_VERSIONS)
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
    """Recalibrate the served models after a power shift, and train challengers if necessary.

    Challengers are trained if `task.train_all` is true, if there is no power shift, or if no served model could be
    recalibrated.
    """
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
    """Return the served models with watts that are corrected for the power shifts, by the path of the model."""
    lines = common_lines(shifts, sorted({stream.node for stream in training.streams}))
    if lines is None:
        log.info("no served model is recalibrated, because the power of the nodes shifted by different amounts")
        return {}
    candidates = {}
    for path, entry in served.items():
        corrections = _corrections(entry, lines)
        if not entry.portable or not corrections:
            continue
        try:
            files = recalibrated(read_files(entry), corrections)
        except ModelError as error:
            log.warning("the served model %s cannot be recalibrated: %s", path, error)
            continue
        metadata = decode_object(files[METADATA_FILE])
        candidates[path] = Candidate("recalibrated", metadata, files, newest_time(training))
    return candidates


def _corrections(entry: StoredModel, lines: Mapping[str, Line]) -> dict[str, Correction]:
    """Return the correction of a model's watts for each component, made from its line in the power shift."""
    corrections = {}
    for key, line in lines.items():
        source, _, component = key.rpartition(".")
        if source == entry.source:
            # a DynPower model gets no offset, because the offset is power of the node that no container causes
            corrections[component] = Correction(line.scale, line.offset if entry.output_type == "AbsPower" else 0.0)
    return corrections
