"""The targets of pipelines. Models of different targets predict different kinds of power. They are never mixed."""

from __future__ import annotations

from kepler_core.errors import StoreError, TrainingError, UsageError
from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.store import Store
from kepler_core.vocabulary import TARGETS

MACHINE = "machine"


def target_of(snapshot: Snapshot) -> str:
    """Return the target of a stored pipeline. Pipelines that state no target estimate the power of machines."""
    if METADATA_FILE not in snapshot.names:
        return MACHINE
    pipeline = snapshot.read_json(METADATA_FILE).get("pipeline")
    target = pipeline.get("target", MACHINE) if isinstance(pipeline, dict) else MACHINE
    return target if target in TARGETS else MACHINE


def refuse_vm_target(spec: PipelineSpec, where: str) -> None:
    """Raise `UsageError` if the pipeline's target is the power of a virtual machine."""
    if spec.target != MACHINE:
        raise UsageError(
            f"{where}: the pipeline {spec.name} has the target {spec.target}, the power of a virtual machine, which "
            "needs a pair of recordings: kepler-model train --host FILE --guest FILE --vm ID"
        )


def refuse_stored_vm_target(snapshot: Snapshot, what: str) -> None:
    """Raise `UsageError` if a stored pipeline estimates the power of virtual machines.

    `what` names the data in the message. The data measure the power of a machine, so they do not fit such a pipeline.
    """
    target = target_of(snapshot)
    if target != MACHINE:
        raise UsageError(
            f"{snapshot.where}: its models estimate the power of a virtual machine (target {target}), and {what} "
            "measures the power of a machine. Train again from a pair of recordings: kepler-model train --host FILE "
            "--guest FILE"
        )


def refuse_other_target(store: Store, spec: PipelineSpec) -> None:
    """Raise `TrainingError` if the store has a version of the pipeline with another target."""
    if spec.name not in store.pipelines():
        return
    try:
        target = target_of(store.snapshot(spec.name))
    except StoreError:
        return  # the target of a version that cannot be read is unknown: allow the training to replace the version
    if target != spec.target:
        raise TrainingError(
            f"the pipeline {spec.name} in {store.location} has the target {target}, this training has {spec.target}; "
            "models of different targets are not mixed: choose another name with --name"
        )
