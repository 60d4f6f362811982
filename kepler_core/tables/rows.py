"""Data sets that consist of the rows of tables."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from kepler_core.contracts import Extractor
from kepler_core.dataset import Dataset
from kepler_core.frames import divided_dataset, node_dataset
from kepler_core.recording.observations import Observations
from kepler_core.tables.observing import TableData
from kepler_core.vocabulary import OutputType, in_component_order


class TableRows(Extractor):
    """An extractor that returns the rows of tables unchanged. Another extractor or the user's program made these rows.

    `memory` is the number of consecutive timestamps from which each row of the tables was calculated.
    """

    def __init__(self, data: TableData, memory: int = 1) -> None:
        self.data = data
        self.memory = memory

    def components(self, source: str, *, by_container: bool) -> tuple[str, ...]:
        """Return the components of an energy source that the tables have, in the order of the vocabulary."""
        power = self.data.row_power if by_container else self.data.node_power
        return in_component_order(component for name, component in power if name == source)

    def extract(
        self,
        observations: Observations,
        features: Sequence[str],
        source: str,
        components: Sequence[str],
        *,
        by_container: bool,
    ) -> Dataset:
        """Return the rows in which all features and components are known.

        The power in rows of containers is returned unchanged. If it is dynamic power, the data set has the output
        type DynPower, and no isolator may be applied to it.
        """
        data = self.data
        if not by_container:
            power = {component: data.node_power[source, component] for component in components}
            return node_dataset(observations, data.node_features, power, features, source)
        power = {component: data.row_power[source, component] for component in components}
        dataset = divided_dataset(observations, data.row_features, power, features, source)
        output_type: OutputType = "DynPower" if data.dynamic else "AbsPower"
        return attrs.evolve(dataset, output_type=output_type)
