"""Choose the isolator of a retraining.

If the profile of the node type has idle power, an isolator that uses the profile replaces the default isolator.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import msgspec

from kepler_core.dataset import Dataset
from kepler_core.errors import PluginError
from kepler_core.models.power_model import PowerModel
from kepler_core.pipeline.node_types import NodeTypeSlot
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.recording.observations import Observations
from kepler_core.store.models import StoredModel
from kepler_profiler.profile.build import build_profile
from kepler_profiler.profile.document import ProfileError, write_profile
from kepler_servers.online_trainer.retraining.candidates import Candidate

log = logging.getLogger(__name__)

PROFILE_ISOLATOR = "ProfileBackgroundIsolator"
DEFAULT_ISOLATOR = "MinIdleIsolator"


def node_type_profile(observations: Observations, slot: NodeTypeSlot) -> dict[str, Any] | None:
    """Build the profile of the node type from the quiet times (times of low load) in the observations.

    If there are no quiet times, return the profile that was published for the node type, or None if no profile
    was published.
    """
    published = slot.profile()
    try:
        profile = build_profile(observations, machine_spec=slot.spec.as_dict(), node_type=slot.node_type)
    except ProfileError as error:
        log.info("no profile can be built from the stored samples: %s", error)
        return published
    if published is not None and not profile.quiet.idle:
        return published
    return msgspec.json.decode(write_profile(profile), type=dict[str, Any])


def with_profile_isolator(spec: PipelineSpec, profile: Mapping[str, Any] | None) -> PipelineSpec:
    """Return the pipeline with `PROFILE_ISOLATOR` instead of the default isolator, if the profile has idle power."""
    is_default = spec.isolator == PluginSpec(DEFAULT_ISOLATOR)
    if is_default and profile is not None and profile.get("quiet", {}).get("idle"):
        return attrs.evolve(spec, isolator=PluginSpec(PROFILE_ISOLATOR))
    return spec


class AbsModels:
    """A callable that returns the AbsPower model that an isolator needs for a data set.

    The model is one of the candidates or, if there are no candidates, one of the served models.
    """

    def __init__(self, served: Mapping[str, StoredModel], candidates: Mapping[str, Sequence[Candidate]]) -> None:
        entries: list[StoredModel | Candidate] = [c for of_path in candidates.values() for c in of_path]
        if not entries:
            entries = [entry for entry in served.values() if entry.portable]
        self._models: list[tuple[Mapping[str, Any], Callable[[], PowerModel]]] = [
            (entry.metadata, entry.load) for entry in entries
        ]

    def __call__(self, dataset: Dataset) -> PowerModel:
        """Load the best AbsPower model that has the energy source and the features of the data set.

        The best model is the model with the lowest validated error. Raises `PluginError` if there is no such model.
        """
        matching = [
            (float(metadata["mae"]), load)
            for metadata, load in self._models
            if metadata.get("output_type") == "AbsPower"
            and isinstance(metadata.get("mae"), int | float)
            and metadata.get("source") == dataset.source
            and tuple(metadata["features"]) == tuple(dataset.features)
        ]
        if not matching:
            raise PluginError(f"no AbsPower model of {dataset.source} with the features {', '.join(dataset.features)}")
        return min(matching, key=lambda pair: pair[0])[1]()
