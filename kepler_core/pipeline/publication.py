"""Publish the results of a training as a new version of the pipeline."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import attrs

from kepler_core.contracts import IsolationContext
from kepler_core.errors import StoreError, VersionTakenError
from kepler_core.machine import Machine
from kepler_core.messages import quoted
from kepler_core.pipeline.evidence import Evidence
from kepler_core.pipeline.fit import FitResult
from kepler_core.pipeline.kept_rows import kept_rows_file, write_kept_rows
from kepler_core.pipeline.load import as_document, pipeline_digest
from kepler_core.pipeline.node_tables import NodeTable, node_tables_file, write_node_tables
from kepler_core.pipeline.node_types import NodeTypeSlot, combined_index, find_slots
from kepler_core.pipeline.plugins import used_plugins
from kepler_core.pipeline.report import Report
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.plugins.hooks import Hooks
from kepler_core.recording.observations import Observations
from kepler_core.store.layout import REPORT_FILE, pipeline_files
from kepler_core.store.store import Store

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class TypeTraining:
    """The training of one node type."""

    slot: NodeTypeSlot
    machine: Machine | None
    context: IsolationContext
    results: Sequence[FitResult]
    evidence: Sequence[Evidence]
    """The predictions of the trained models for held-out samples, for listeners."""
    nodes: Sequence[NodeTable] = ()
    """The comparisons of the nodes."""

    @property
    def members(self) -> set[str]:
        """The names of the machines that belong to the node type."""
        if self.machine is not None and self.machine.id is not None:
            return {self.machine.id}
        return {stream.node for stream in self.context.observations.streams}


@attrs.frozen(eq=False)
class Publication:
    """Publishes the models of one training."""

    spec: PipelineSpec
    observations: Observations
    """The observations of all node types."""
    idle: Observations | None
    store: Store
    listeners: Hooks
    trainings: Sequence[TypeTraining]
    """The trainings of the node types for which models were trained; at least one."""

    def publish(self, report: Report) -> int:
        """Publish the trained models together with the models of other node types, and return the version.

        If another process publishes a version of the pipeline at the same time, take over the models of other
        node types from that version, and try again. Raise `StoreError` if that version uses a node type number of
        this training for other machines.
        """
        slots = [training.slot for training in self.trainings]
        while True:
            slots = _without_each_other(slots)
            files = self._files(slots, report)
            files |= (additions := self._files_of_listeners(files, slots, report))
            report.page = REPORT_FILE if REPORT_FILE in additions else None
            try:
                return self.store.publish(self.spec.name, files, version=slots[0].next_version)
            except VersionTakenError as error:
                before = slots
                slots = find_slots(self.store, self.spec.name, [training.machine for training in self.trainings])
                for old, new in zip(before, slots, strict=True):
                    if old.node_type != new.node_type:
                        message = f"{error}, with other machines as node type {old.node_type}: train again"
                        raise StoreError(message) from error

    def _files(self, slots: Sequence[NodeTypeSlot], report: Report) -> dict[str, bytes]:
        models = [
            (result.metadata, result.files)
            for training in self.trainings
            for result in training.results
            if result.files is not None
        ]
        index = combined_index(slots, [training.members for training in self.trainings])
        files = pipeline_files(models, self._metadata(slots, report), index, slots[0].kept_models())
        for slot, training in zip(slots, self.trainings, strict=True):
            if self.spec.keep_rows:
                rows = write_kept_rows(training.context.observations, self.spec.keep_rows)
                files[kept_rows_file(slot.node_type)] = rows
            if training.nodes:
                files[node_tables_file(slot.node_type)] = write_node_tables(training.nodes)
        return {**files, **slots[0].kept_profiles(), **slots[0].kept_samples(), **slots[0].kept_node_tables()}

    def _metadata(self, slots: Sequence[NodeTypeSlot], report: Report) -> dict[str, Any]:
        """Return the content of the pipeline's `metadata.json`."""
        spec, observations, idle = self.spec, self.observations, self.idle
        document = as_document(spec)
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
        return {
            "name": spec.name,
            "isolator": spec.isolator.name,
            "extractor": spec.extractor.name,
            "abs_trainers": [trainer.name for trainer in spec.abs_trainers],
            "dyn_trainers": [trainer.name for trainer in spec.dyn_trainers],
            "init_time": now,
            "last_update_time": now,
            "pipeline": document,
            "recordings": [attrs.asdict(stream) for stream in observations.streams],
            "findings": report.findings,
            **({"pairs": report.pairs} if report.pairs else {}),
            "idle_recordings": [] if idle is None else [attrs.asdict(stream) for stream in idle.streams],
            "isolation": {
                **slots[0].kept_isolation(),
                **{
                    str(slot.node_type): {
                        "isolator": document["isolator"],
                        "background": sorted(training.context.background),
                    }
                    for slot, training in zip(slots, self.trainings, strict=True)
                },
            },
            "lineage": {"data": observations.digest, "pipeline": pipeline_digest(spec), "seed": spec.seed},
            "failed": report.failed,
            "skipped": report.skipped,
            "notes": report.notes,
            "plugins": used_plugins(
                spec, observations, self.listeners.listeners(), [model["source"] for model in report.models]
            ),
        }

    def _files_of_listeners(
        self, files: Mapping[str, bytes], slots: Sequence[NodeTypeSlot], report: Report
    ) -> dict[str, bytes]:
        """Return the files that listeners add to the pipeline; leave out files with an unusable path or content.

        The listeners are called for each node type. If they add a file for several node types, e.g. the report, the
        file of the first node type is published.
        """
        every: dict[str, bytes] = {}
        for slot, training in zip(slots, self.trainings, strict=True):
            additions: dict[str, bytes] = {}
            self.listeners.call(
                "kepler_publishing",
                pipeline=self.spec.name,
                files=additions,
                observations=training.context.observations,
                idle=training.context.idle,
                node_type=slot.node_type,
                machine_spec=training.context.machine_spec,
                profile=training.context.profile,
                evidence=training.evidence,
                report=report.as_dict(),
                document=as_document(self.spec),
            )
            every = additions | every
        return {name: content for name, content in every.items() if _is_usable(name, content, files)}


def _without_each_other(slots: Sequence[NodeTypeSlot]) -> list[NodeTypeSlot]:
    """Return the slots, changed so that no slot keeps files of another slot's node type."""
    numbers = frozenset(slot.node_type for slot in slots)
    return [attrs.evolve(slot, others=numbers) for slot in slots]


def _is_usable(name: Any, content: Any, files: Mapping[str, bytes]) -> bool:
    """Return whether a listener's file can be published: bytes at a free path in the pipeline's folder."""
    if not (isinstance(name, str) and isinstance(content, bytes)):
        log.warning("left out the file %s of a listener: the path must be text, the content bytes", quoted(name))
        return False
    path = PurePosixPath(name)
    if name in files or path.is_absolute() or ".." in path.parts or str(path) != name:
        log.warning("left out the file %s of a listener: it exists already or is outside of the pipeline", quoted(name))
        return False
    return True
