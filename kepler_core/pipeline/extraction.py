"""Extract single data sets from observations, as a training of the pipeline would extract them."""

from __future__ import annotations

from typing import Literal

import attrs

from kepler_core.contracts import IsolationContext
from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError, RecordingError, UsageError, close_matches
from kepler_core.messages import quoted
from kepler_core.pipeline.plan import Plan, Wanted, datasets, extracted, plan
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.plugins import registry
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import GROUP_NAMES, OutputType, group_features

Level = Literal["node", "container"]


def choose_dataset(
    spec: PipelineSpec,
    observations: Observations,
    level: Level,
    energy_source: str | None = None,
    feature_group: str | None = None,
) -> Wanted:
    """Return the data set of one energy source, feature group and level (nodes or containers).

    If `energy_source` is None, the only energy source that the pipeline names is used. If the pipeline names no energy
    source, the only energy source of the observations is used. `feature_group` works in the same way. Raises
    `UsageError` if there are several sources or groups to choose from, and `RecordingError` if the observations do not
    suffice.
    """
    output_type: OutputType = "AbsPower" if level == "node" else "DynPower"
    source = _chosen_source(spec, observations, energy_source)
    group = _chosen_group(spec, observations, feature_group)
    # The plan needs the name of a trainer, but the trainer need not exist.
    trainers = [PluginSpec("any")]
    planned = plan(
        attrs.evolve(
            spec,
            energy_sources=[source],
            feature_groups=[group],
            abs_trainers=trainers if output_type == "AbsPower" else [],
            dyn_trainers=trainers if output_type == "DynPower" else [],
        ),
        observations,
    )
    if not planned.wanted:
        raise RecordingError(
            f"no data set per {level} for the energy source {source} and the feature group {group}: "
            f"{planned.skipped[0].reason}"
        )
    return planned.wanted[0]


def extract_dataset(spec: PipelineSpec, observations: Observations, wanted: Wanted) -> Dataset:
    """Return a data set as the pipeline's extractor makes it: with the measured power, by node or by container.

    Raises `RecordingError` if the data set has no rows.
    """
    extractor = registry.extractors.create(spec.extractor.name, spec.extractor.args)
    return _with_rows(extracted(extractor, observations, wanted))


def isolate_dataset(spec: PipelineSpec, context: IsolationContext, wanted: Wanted) -> Dataset:
    """Return a data set by container with the dynamic power that the pipeline's isolator leaves.

    Raises `RecordingError` if the data set has no rows, and `PluginError` if the extractor or isolator fails.
    """
    extractor = registry.extractors.create(spec.extractor.name, spec.extractor.args)
    isolator = registry.isolators.create(spec.isolator.name, spec.isolator.args)
    _, dataset = next(datasets(extractor, isolator, Plan((wanted,), ()), context))
    if isinstance(dataset, PluginError):
        raise dataset
    return _with_rows(dataset)


def _with_rows(dataset: Dataset) -> Dataset:
    if dataset.frame.empty:
        names = ", ".join(dataset.features)
        raise RecordingError(f"no timestamp at which {names} and the power of {dataset.source} are all known")
    return dataset


def _chosen_source(spec: PipelineSpec, observations: Observations, name: str | None) -> str:
    if name is not None:
        try:
            return registry.energy_sources.canonical(name)
        except PluginError as error:
            raise UsageError(f"--energy-source: {error}") from error
    named = list(observations.sources) if spec.energy_sources == "auto" else spec.energy_sources
    if not named:
        raise RecordingError("no power of any energy source in the data")
    if len(named) > 1:
        raise UsageError(f"choose one of the energy sources {', '.join(named)} with --energy-source")
    return named[0]


def _chosen_group(spec: PipelineSpec, observations: Observations, name: str | None) -> str:
    if name is not None:
        if name not in GROUP_NAMES:
            hint = close_matches(name, GROUP_NAMES)
            raise UsageError(f"--feature-group: unknown feature group {quoted(name)}; {hint}")
        if not group_features(name, spec.third_party):
            raise UsageError(f"--feature-group: {name} has no features: name them in the pipeline's key third_party")
        return name
    if spec.feature_groups != "auto":
        named = spec.feature_groups
    else:
        known = set(observations.features)
        named = [
            group
            for group in GROUP_NAMES
            if (features := group_features(group, spec.third_party)) and known.issuperset(features)
        ]
    if not named:
        raise RecordingError("the data lack features of every feature group")
    if len(named) > 1:
        raise UsageError(f"choose one of the feature groups {', '.join(named)} with --feature-group")
    return named[0]
