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
from kepler_core.pipeline.node_types import NodeTypeSlot, find_slot
from kepler_core.pipeline.plugins import used_plugins
from kepler_core.pipeline.report import Report
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.plugins.hooks import Hooks
from kepler_core.store.layout import REPORT_FILE, pipeline_files
from kepler_core.store.store import Store

log = logging.getLogger(__name__)


@attrs.frozen(eq=False)
class Publication:
    """Publishes the models of one training."""

    spec: PipelineSpec
    context: IsolationContext
    store: Store
    machine: Machine | None
    listeners: Hooks
    evidence: Sequence[Evidence] = ()
    """The predictions of the trained models for held-out samples, for listeners."""

    def publish(self, slot: NodeTypeSlot, results: Sequence[FitResult], report: Report) -> int:
        """Publish the trained models together with the models of other node types, and return the version.

        If another process publishes a version of the pipeline at the same time, take over the models of other
        node types from that version, and try again. Raise `StoreError` if that version uses this training's
        node type number for other machines.
        """
        while True:
            files = self._files(slot, results, report)
            files |= (additions := self._files_of_listeners(files, slot, report))
            report.page = REPORT_FILE if REPORT_FILE in additions else None
            try:
                return self.store.publish(self.spec.name, files, version=slot.next_version)
            except VersionTakenError as error:
                slot = find_slot(self.store, self.spec.name, self.machine)
                if slot.node_type != report.node_type:
                    message = f"{error}, with other machines as node type {report.node_type}: train again"
                    raise StoreError(message) from error

    def _files(self, slot: NodeTypeSlot, results: Sequence[FitResult], report: Report) -> dict[str, bytes]:
        nodes = {stream.node for stream in self.context.observations.streams}
        members = nodes if self.machine is None or self.machine.id is None else {self.machine.id}
        models = [(result.metadata, result.files) for result in results if result.files is not None]
        files = pipeline_files(models, self._metadata(slot, report), slot.index(members), slot.kept_models())
        if self.spec.keep_rows:
            files[kept_rows_file(slot.node_type)] = write_kept_rows(self.context.observations, self.spec.keep_rows)
        return {**files, **slot.kept_profiles(), **slot.kept_samples()}

    def _metadata(self, slot: NodeTypeSlot, report: Report) -> dict[str, Any]:
        """Return the content of the pipeline's `metadata.json`."""
        spec, observations, idle = self.spec, self.context.observations, self.context.idle
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
                **slot.kept_isolation(),
                str(slot.node_type): {
                    "isolator": document["isolator"],
                    "background": sorted(self.context.background),
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

    def _files_of_listeners(self, files: Mapping[str, bytes], slot: NodeTypeSlot, report: Report) -> dict[str, bytes]:
        """Return the files that listeners add to the pipeline; leave out files with an unusable path or content."""
        additions: dict[str, bytes] = {}
        self.listeners.call(
            "kepler_publishing",
            pipeline=self.spec.name,
            files=additions,
            observations=self.context.observations,
            idle=self.context.idle,
            node_type=slot.node_type,
            machine_spec=self.context.machine_spec,
            profile=self.context.profile,
            evidence=self.evidence,
            report=report.as_dict(),
            document=as_document(self.spec),
        )
        return {name: content for name, content in additions.items() if _is_usable(name, content, files)}


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
