"""Read the inputs of a retraining (the served models and the stored samples), and hold out some samples."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
import pyarrow as pa

from kepler_core.machine import Machine
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.node_types import NodeTypeSlot, find_slot
from kepler_core.recording.observations import Observations
from kepler_core.store import Snapshot, Store
from kepler_core.store.models import StoredModel, read_models
from kepler_servers.online_trainer import sample_table
from kepler_servers.online_trainer.power_shift import PowerShift, ShiftLog, describe_lines, shift_watts
from kepler_servers.online_trainer.retraining.holdout import NOTHING, HeldOut, hold_out
from kepler_servers.online_trainer.sample_store import SampleStore
from kepler_servers.online_trainer.shift_detection import find_shifts
from kepler_servers.online_trainer.state_folder import StateFolder

log = logging.getLogger(__name__)

ONLINE_KEY = "online"
"""Key in the metadata of a published pipeline under which the online trainer stores its own data."""


@attrs.frozen(eq=False)
class ServedModels:
    """The models in the pipeline version that is currently served."""

    slot: NodeTypeSlot
    """The node type of the nodes whose samples are fetched: its number, and the pipeline's served version."""
    all: Mapping[str, StoredModel]
    """Models for all node types, by the path of the model."""
    own: Mapping[str, StoredModel]
    """Models for the node type of the nodes whose samples are fetched, by the path of the model."""
    trained_until: Mapping[str, float]
    """Time of the newest sample that each model was trained on, in Unix seconds, by the path of the model."""

    @property
    def snapshot(self) -> Snapshot | None:
        """The served version of the pipeline; None if the pipeline has no version yet."""
        return self.slot.snapshot


@attrs.frozen(eq=False)
class SampleSplit:
    """The stored samples as observations. Their watts are converted for all known power shifts (see `shift_watts`)."""

    all: Observations
    training: Observations
    """The samples to train on: all samples except the held-out samples and the gaps around them."""
    held_out: HeldOut

    def shifted(self, shifts: Sequence[PowerShift]) -> SampleSplit:
        """Return the samples with watts that are converted for additional power shifts (see `shift_watts`)."""
        return attrs.evolve(self, all=shift_watts(self.all, shifts), training=shift_watts(self.training, shifts))


def newest_time(observations: Observations) -> float:
    """Return the time of the newest sample in Unix seconds; 0 if there are no samples."""
    return float(observations.sample_time.max(initial=0.0))


def read_served(store: Store, pipeline: str, machine: Machine | None) -> ServedModels:
    """Read the models of the served version of a pipeline."""
    slot = find_slot(store, pipeline, machine)
    if slot.snapshot is None:
        return ServedModels(slot, {}, {}, {})
    entries = {entry.path: entry for entry in read_models(slot.snapshot)}
    own = {path: entry for path, entry in entries.items() if entry.node_type == slot.node_type}
    return ServedModels(slot, entries, own, _read_trained_until(slot.snapshot))


def _read_trained_until(snapshot: Snapshot) -> dict[str, float]:
    online = snapshot.read_json(METADATA_FILE).get(ONLINE_KEY)
    times = online.get("trained_until") if isinstance(online, dict) else None
    if not isinstance(times, dict):
        return {}
    return {path: float(time) for path, time in times.items() if isinstance(time, int | float)}


def read_samples(state: StateFolder, served: ServedModels, trigger: str) -> SampleSplit:
    """Read the stored samples, and hold out some samples that no served model was trained on."""
    store = SampleStore(state.samples, read_only=True)
    table = store.table()
    shifts = ShiftLog(state.shifts).shifts()
    observations = shift_watts(sample_table.to_observations(table, store.step), shifts)
    held_out = NOTHING
    if served.own:
        trained_until = max(served.trained_until.get(path, -np.inf) for path in served.own)
        held_out = hold_out(observations.sample_time, trained_until, observations.step, drift=trigger == "drift")
    trainable = held_out.trainable(sample_table.float_column(table, "time"))
    training = sample_table.to_observations(table.filter(pa.array(trainable)), store.step)
    return SampleSplit(observations, shift_watts(training, shifts), held_out)


def record_new_shifts(state: StateFolder, samples: SampleSplit) -> list[PowerShift]:
    """Find new power shifts in the training samples, report them in the log, and add them to the `ShiftLog`."""
    shifts = find_shifts(samples.training)
    for shift in shifts:
        log.warning("the power of node %s has shifted: %s", shift.node, describe_lines(shift.lines))
    if shifts:
        ShiftLog(state.shifts).add(shifts)
    return shifts
