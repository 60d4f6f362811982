"""The extractor `DefaultExtractor`, which takes observations without smoothing them."""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.contracts import Extractor
from kepler_core.dataset import Dataset
from kepler_core.frames import container_dataset, node_dataset
from kepler_core.recording.observations import Observations
from kepler_core.recording.previous import with_previous


class DefaultExtractor(Extractor):
    """Takes all timestamps at which every feature and every component's power are known, without smoothing.

    A feature whose name ends in `_previous` is another feature's value at the previous timestamp.
    """

    def extract(
        self,
        observations: Observations,
        features: Sequence[str],
        source: str,
        components: Sequence[str],
        *,
        by_container: bool,
    ) -> Dataset:
        observations = with_previous(observations, features)
        power = {component: observations.power[source, component] for component in components}
        if by_container:
            return container_dataset(
                observations, observations.container_features, observations.node_features, power, features, source
            )
        return node_dataset(observations, observations.node_features, power, features, source)
