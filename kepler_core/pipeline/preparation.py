"""Prepare the data sets of a training, and make fit jobs from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.containers import workload
from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError, TrainingError
from kepler_core.pipeline.fit import FitJob, all_baselines
from kepler_core.pipeline.honesty import seen
from kepler_core.pipeline.load import pipeline_digest
from kepler_core.pipeline.node_types import NodeTypeSlot
from kepler_core.pipeline.plan import Plan, Skipped, Wanted, datasets, unused_nodes
from kepler_core.pipeline.rows import training_rows
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.pipeline.splits import splits
from kepler_core.pipeline.validation import folds
from kepler_core.plugins import registry
from kepler_core.plugins.hooks import Hooks
from kepler_core.recording.observations import Observations
from kepler_core.tables.rows import TableRows
from kepler_core.vocabulary import OutputType


def isolation_context(
    observations: Observations,
    idle: Observations | None,
    profile: Mapping[str, Any] | None,
    machine_spec: Mapping[str, Any],
) -> IsolationContext:
    """Return the data that isolators may use. Only the AbsPower models are missing: they are added later.

    The containers that ran on the idle machine count as background.
    """
    background = frozenset() if idle is None else frozenset(map(workload, idle.container_names))
    return IsolationContext(observations, idle, background, profile, machine_spec)


@attrs.define
class Prepared:
    """Fit jobs, notes and skipped nodes that result from preparing one data set of the plan."""

    jobs: list[FitJob] = attrs.field(factory=list)
    """One fit job per trainer; empty if the data set cannot be trained on."""
    notes: list[dict[str, Any]] = attrs.field(factory=list)
    skipped: list[Skipped] = attrs.field(factory=list)


class Preparation:
    """Extracts and isolates the data sets of a training, and chooses training rows and test rows."""

    def __init__(
        self,
        spec: PipelineSpec,
        context: IsolationContext,
        slot: NodeTypeSlot,
        listeners: Hooks,
        rows: TableRows | None = None,
    ) -> None:
        """Prepare data sets of the pipeline. `rows`, if it is not None, replaces the pipeline's extractor."""
        self._spec = spec
        self._slot = slot
        self._listeners = listeners
        self._extractor = rows or registry.extractors.create(spec.extractor.name, spec.extractor.args)
        self._isolator = registry.isolators.create(spec.isolator.name, spec.isolator.args)
        self._lineage = _lineage(spec, context)

    def expected(self, planned: Plan) -> int:
        """Return the number of fit jobs of a plan, if models can be trained on all of its data sets."""
        return sum(len(trainers_of(self._spec, output_type)) for _, output_type, _, _ in planned.wanted)

    def prepare(self, planned: Plan, context: IsolationContext) -> Iterator[tuple[Wanted, Prepared]]:
        """Prepare each data set of the plan, in the plan's order, and yield its fit jobs."""
        for wanted, dataset in datasets(self._extractor, self._isolator, planned, context):
            if isinstance(dataset, PluginError):
                yield wanted, Prepared(skipped=[Skipped(*wanted[:3], str(dataset), failed=True)])
            elif dataset.frame.empty:
                reason = "only 0 usable timestamps: features and power are never known at the same time"
                yield wanted, Prepared(skipped=[Skipped(*wanted[:3], reason)])
            else:
                yield wanted, self._prepared(wanted, dataset, context)
            del dataset  # otherwise, two data sets at a time would be in memory

    def _prepared(self, wanted: Wanted, dataset: Dataset, context: IsolationContext) -> Prepared:
        dataset = attrs.evolve(dataset, node_type=self._slot.node_type)
        place = dict(zip(("source", "output_type", "feature_group"), wanted[:3], strict=True))
        prepared = Prepared(
            notes=[{**place, "note": note} for note in dataset.notes],
            skipped=[Skipped(*wanted[:3], reason) for reason in unused_nodes(dataset, context.observations)],
        )
        self._listeners.call("kepler_dataset_ready", dataset=dataset)
        try:
            prepared.jobs = self._jobs(dataset)
        except TrainingError as error:
            prepared.skipped.append(Skipped(dataset.source, dataset.output_type, dataset.feature_group, str(error)))
        return prepared

    def _jobs(self, dataset: Dataset) -> list[FitJob]:
        """Return a fit job for each trainer; raise `TrainingError` if no samples can be held out for validation."""
        spec = self._spec
        rows = training_rows(dataset, spec.max_rows, spec.max_test_rows, spec.seed)
        node = np.asarray(dataset.index.codes[1], dtype=np.int64)[dataset.first_rows]
        held_out = folds(spec.validation, rows.stream, rows.time, self._extractor.memory, node, spec.seed)
        baselines = all_baselines(rows, held_out)
        by_split = splits(spec.validation, held_out, rows, self._extractor.memory, spec.seed)
        description = seen(dataset, rows)
        validation = {
            **attrs.asdict(spec.validation),
            "measured_on": "nodes" if dataset.output_type == "AbsPower" else "sums over a node's containers",
            "timestamps": len(rows.time),
            "fit_rows": len(rows.fit_X),
        }
        return [
            FitJob(
                rows=rows,
                folds=held_out,
                splits=by_split,
                seen=description,
                baselines=baselines,
                trainer=trainer.name,
                args=trainer.args,
                seed=spec.seed,
                node_type=dataset.node_type,
                machine_spec=self._slot.spec.as_dict(),
                validation=validation,
                lineage=self._lineage,
                target=spec.target,
            )
            for trainer in trainers_of(spec, dataset.output_type)
        ]


def trainers_of(spec: PipelineSpec, output_type: OutputType) -> list[PluginSpec]:
    """Return the trainers that a pipeline names for an output type."""
    return spec.abs_trainers if output_type == "AbsPower" else spec.dyn_trainers


def _lineage(spec: PipelineSpec, context: IsolationContext) -> Mapping[str, Any]:
    """Return the key `lineage` of a model's metadata: digests of its data and pipeline, and plugin names."""
    idle = {} if context.idle is None else {"idle": context.idle.digest}
    return {
        "data": context.observations.digest,
        "pipeline": pipeline_digest(spec),
        "seed": spec.seed,
        "schemas": list(context.observations.schemas),
        **idle,
        "isolator": spec.isolator.name,
        "extractor": spec.extractor.name,
    }
