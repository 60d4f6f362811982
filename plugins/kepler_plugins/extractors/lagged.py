"""The extractor `LaggedExtractor`, which adds the features of the previous timestamp."""

from __future__ import annotations

from collections.abc import Sequence

from kepler_core.vocabulary import COUNTER_FEATURES, PREVIOUS_SUFFIX
from kepler_plugins.extractors.default import DefaultExtractor


class LaggedExtractor(DefaultExtractor):
    """Adds the values of `cache_miss`, `cpu_cycles` and `cpu_instructions` at the previous timestamp.

    The names of the added features end in `_previous`. A row is left out if the previous timestamp of its node or
    container is unknown, or is more than two steps earlier.
    """

    memory = 2

    def dataset_features(self, features: Sequence[str]) -> tuple[str, ...]:
        return (*features, *(name + PREVIOUS_SUFFIX for name in features if name in COUNTER_FEATURES))
