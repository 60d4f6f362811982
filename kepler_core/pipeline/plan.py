"""The data sets that a pipeline trains on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.contracts import Extractor, IsolationContext, Isolator
from kepler_core.dataset import Dataset
from kepler_core.errors import KeplerError, PluginError
from kepler_core.messages import one_line
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.recording.dead_features import reason_of_dead, split_dead
from kepler_core.recording.observations import Observations
from kepler_core.tables.rows import TableRows
from kepler_core.vocabulary import FEATURE_GROUPS, THIRD_PARTY_GROUP, OutputType, group_features, reduced_group


@attrs.frozen
class Skipped:
    """A data set that is not trained on, or a node that is left out of a data set, with the reason."""

    source: str
    output_type: str
    feature_group: str
    reason: str
    failed: bool = False
    """Whether this counts as a failure: a plugin failed, or the data lack a source or group that the pipeline names."""

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self, filter=lambda field, _: field.name != "failed")


Wanted = tuple[str, OutputType, str, tuple[str, ...]]
"""Description of a data set to train on: (source, output type, feature group, features)."""


@attrs.frozen
class Plan:
    """The data sets that a pipeline can extract from observations, and the data sets that it must skip."""

    wanted: tuple[Wanted, ...]
    skipped: tuple[Skipped, ...]

    def only(self, output_type: str) -> Plan:
        """Return a plan with only the data sets of one output type, and without the list of skipped data sets."""
        return Plan(tuple(wanted for wanted in self.wanted if wanted[1] == output_type), ())


@attrs.frozen
class Offer:
    """The energy sources and features from which the data sets of one output type can be extracted."""

    sources: Mapping[str, tuple[str, ...]]
    """Components with known power, by energy source."""
    features: frozenset[str]
    """Features with known values."""
    container_features: frozenset[str]
    """Features that are counted per container."""


Offers = Mapping[OutputType, Offer | str]
"""Maps each output type to the energy sources and features of its data sets, or to the reason why there are none."""


def offers_of(observations: Observations) -> Offers:
    """Return the energy sources and features in observations. They are the same for both output types."""
    offer = Offer(observations.sources, frozenset(observations.features), frozenset(observations.container_features))
    return {"AbsPower": offer, "DynPower": offer}


def plan(spec: PipelineSpec, observations: Observations, offers: Offers | None = None) -> Plan:
    """Return the plan: which data sets can be extracted, and why the other data sets are skipped.

    `offers` states from which energy sources and features the data sets of each output type can be extracted. By
    default, it is the result of `offers_of` for the observations.
    """
    offers = offers_of(observations) if offers is None else offers
    available = {name for offer in offers.values() if isinstance(offer, Offer) for name in offer.sources}
    if not available and spec.energy_sources == "auto":
        reason = f"no power of any energy source in the data{_idle_only(observations)}"
        return Plan((), (Skipped("", "", "", reason),))
    sources = sorted(available) if spec.energy_sources == "auto" else list(spec.energy_sources)
    groups = spec.feature_groups
    if groups == "auto":
        groups = [*FEATURE_GROUPS, *([THIRD_PARTY_GROUP] if spec.third_party else [])]
    types: list[tuple[OutputType, list[PluginSpec]]] = [
        ("AbsPower", spec.abs_trainers),
        ("DynPower", spec.dyn_trainers),
    ]
    wanted, skipped = [], []
    for source in sources:
        for output_type, trainers in types:
            if not trainers:
                continue
            offer = offers[output_type]
            if isinstance(offer, str):
                skipped.append(Skipped(source, output_type, "", offer))
                continue
            for group in _reduced(groups, offer.features, spec.third_party):
                features = group_features(group, spec.third_party)
                missing = [feature for feature in features if feature not in offer.features]
                if source not in offer.sources:
                    reason = f"no power of {source} in the data{_idle_only(observations)}"
                elif missing:
                    reason = _why_missing(missing, observations)
                elif output_type == "DynPower" and offer.container_features.isdisjoint(features):
                    reason = f"{', '.join(features)}: counted per node only, not per container"
                else:
                    wanted.append((source, output_type, group, features))
                    continue
                by_name = (source not in offer.sources and spec.energy_sources != "auto") or (
                    bool(missing) and spec.feature_groups != "auto"
                )
                skipped.append(Skipped(source, output_type, group, reason, failed=by_name))
    return Plan(tuple(wanted), tuple(skipped))


def _reduced(groups: Sequence[str], available: Collection[str], third_party: Sequence[str]) -> list[str]:
    """Return the feature groups to train.

    A group that needs a missing optional feature is replaced by the group without this feature.

    If the replacement is already in `groups`, the group with the missing feature stays in the list, and is later
    reported as skipped.
    """
    reduced = []
    for group in groups:
        missing = [feature for feature in group_features(group, third_party) if feature not in available]
        replacement = reduced_group(group, missing) if missing else None
        reduced.append(group if replacement is None or replacement in groups else replacement)
    return reduced


def _why_missing(features: Sequence[str], observations: Observations) -> str:
    """Return why the features have no known values: they are not in the data, or they are 0 although the CPUs run."""
    dead, absent = split_dead(features, observations.counts)
    reasons = [f"no {', '.join(absent)} in the data"] if absent else []
    if dead:
        reasons.append(reason_of_dead(dead))
    return "; ".join(reasons)


def _idle_only(observations: Observations) -> str:
    """Return the end of an error message, which names the meters with only idle energy; "" if there are none."""
    meters = ", ".join(sorted(observations.counts.idle_only))
    return f": only idle energy of {meters}, which is not the whole power" if meters else ""


def datasets(
    extractor: Extractor, isolator: Isolator, planned: Plan, context: IsolationContext
) -> Iterator[tuple[Wanted, Dataset | PluginError]]:
    """Yield each data set of a plan, or the error that the extractor or isolator raised instead."""
    for wanted in planned.wanted:
        try:
            yield wanted, _dataset_of(wanted, extractor, isolator, context)
        except PluginError as error:
            yield wanted, error


def _dataset_of(wanted: Wanted, extractor: Extractor, isolator: Isolator, context: IsolationContext) -> Dataset:
    """Extract and isolate one data set. If a plugin raises an exception, raise `PluginError` with the plugin's name."""
    output_type = wanted[1]
    observations = context.observations
    dynamic = output_type == "DynPower"
    plugin: Extractor | Isolator = extractor
    try:
        dataset = extracted(extractor, observations, wanted)
        # rows of a table may have dynamic power already
        if dynamic and not dataset.frame.empty and dataset.output_type != "DynPower":
            plugin = isolator
            dataset = isolator.isolate(dataset, context)
    except KeplerError as error:
        raise PluginError(f"{type(plugin).__name__}: {error}") from error
    except Exception as error:  # without the data set of a defective plugin, the training continues with the others
        raise PluginError(f"{type(plugin).__name__} failed: {one_line(error)}") from error
    return attrs.evolve(dataset, output_type=output_type)


def extracted(extractor: Extractor, observations: Observations, wanted: Wanted) -> Dataset:
    """Extract one data set, without isolating it: by container for DynPower, else by node."""
    source, output_type, group, features = wanted
    by_container = output_type == "DynPower"
    if isinstance(extractor, TableRows):
        components = extractor.components(source, by_container=by_container)
    else:
        components = observations.sources[source]
    features = extractor.dataset_features(features)
    dataset = extractor.extract(observations, features, source, components, by_container=by_container)
    return attrs.evolve(dataset, feature_group=group)


def unused_nodes(dataset: Dataset, observations: Observations) -> list[str]:
    """Return a message for each node without rows in a data set; it names the features and power that are missing."""
    used = {(row[0], row[1]) for row in dataset.index[dataset.first_rows].droplevel(2).unique()}
    reasons = []
    for code, stream in enumerate(observations.streams):
        if (stream.recording, stream.node) in used:
            continue
        of_stream = observations.sample_stream == code
        columns = {n: values for n, values in observations.node_features.items() if n in dataset.features}
        columns |= {c: watts for (source, c), watts in observations.power.items() if source == dataset.source}
        lacking = [
            name
            for name in (*dataset.features, *dataset.components)
            if name in columns and not np.isfinite(columns[name][of_stream]).any()
        ]
        why = f"no {', '.join(lacking)}" if lacking else "no timestamp at which all features and powers are known"
        reasons.append(f"node {stream.node!r} of {stream.recording} is not used: {why}")
    return reasons
