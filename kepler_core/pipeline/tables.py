"""Train a pipeline from tables: which energy sources, output types and rows the tables have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from kepler_core.errors import PluginError, UsageError
from kepler_core.machine import Machine
from kepler_core.messages import printable
from kepler_core.pipeline.plan import Offer
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.plugins import registry
from kepler_core.tables.columns import similar_name
from kepler_core.tables.observing import observe_tables
from kepler_core.tables.rows import TableRows
from kepler_core.tables.table import Table
from kepler_core.vocabulary import ACCELERATOR_FEATURES, PLATFORM_COMPONENTS, OutputType

_DEFAULT_SOURCE = "rapl-sysfs"
_DEFAULT_PLATFORM_SOURCE = "acpi"

_SHOWN_CHARACTERS = 60
_PLAIN_EXTRACTOR = "DefaultExtractor"
"""The extractor that changes no values, so that it makes no difference whether it is applied."""


@attrs.frozen(eq=False)
class TableTraining:
    """What `kepler_core.pipeline.train.train` needs to train from tables instead of recordings."""

    spec: PipelineSpec
    """The pipeline. If the tables do not allow its validation scheme, the scheme was replaced."""
    rows: TableRows
    notes: tuple[str, ...]
    """Remarks for the user, one line each."""
    pairs: tuple[dict[str, Any], ...] = ()
    """Descriptions of the pairs of a host and a guest from which the tables were made."""

    @property
    def offers(self) -> Mapping[OutputType, Offer | str]:
        """Map each output type to its energy sources and features, or to the reason why it has no data sets."""
        return {"AbsPower": self._of_nodes(), "DynPower": self._of_containers()}

    def _of_nodes(self) -> Offer | str:
        data = self.rows.data
        if not data.node_power:
            return "the tables have no rows of nodes (rows without a column container)"
        return Offer(self._sources(by_container=False), frozenset(data.node_features), frozenset())

    def _of_containers(self) -> Offer | str:
        data = self.rows.data
        if not data.row_power:
            return "the tables have no rows of containers (a column container)"
        own = set(data.row_features) - data.observations.node_gauges - set(ACCELERATOR_FEATURES)
        return Offer(self._sources(by_container=True), frozenset(data.row_features), frozenset(own))

    def _sources(self, *, by_container: bool) -> dict[str, tuple[str, ...]]:
        data = self.rows.data
        sources = sorted({source for source, _ in (data.row_power if by_container else data.node_power)})
        return {source: self.rows.components(source, by_container=by_container) for source in sources}


def table_training(
    spec: PipelineSpec, tables: Sequence[Table], machine: Machine | None = None, energy_source: str | None = None
) -> TableTraining:
    """Prepare a training from tables: return the pipeline, the rows and notes for the user.

    `energy_source` is the energy source of all power in the tables. If it is None, the power of each component belongs
    to that energy source of the pipeline which measures the component. If the pipeline names no energy source, the
    power of the platform belongs to acpi, and the power of all other components belongs to rapl-sysfs.

    CPU time that exceeds the CPUs of `machine` is left out.

    Raises `TableError`, `RecordingError` or `UsageError` if the tables cannot be used.
    """
    source_of = {
        component: _source_of(component, spec, energy_source)
        for component in dict.fromkeys(component for table in tables for component in table.power)
    }
    if not any(source_of.values()):
        measured = ", ".join(source_of)
        named = energy_source or ", ".join(spec.energy_sources)
        raise UsageError(f"the tables have the power of {measured}, which {named} does not measure")
    data = observe_tables(tables, source_of.get, None if machine is None else machine.spec.cores)
    notes = [_unused_note(table, source_of) for table in tables]
    if spec.extractor.name != _PLAIN_EXTRACTOR:
        notes.append(f"{spec.extractor.name} is not applied to tables: their rows must be results of it already")
    if data.gaps:
        notes.append(f"{data.gaps} intervals between rows are longer than five usual steps; the rows are used")
    if not data.has_times and spec.validation.scheme in ("blocks", "last"):
        notes.append(f"no timestamps: validated on held-out nodes instead of scheme {spec.validation.scheme!r}")
        spec = attrs.evolve(spec, validation=attrs.evolve(spec.validation, scheme="nodes"))
    memory = registry.extractors.create(spec.extractor.name, spec.extractor.args).memory
    return TableTraining(spec, TableRows(data, memory), tuple(note for note in notes if note))


def _source_of(component: str, spec: PipelineSpec, energy_source: str | None) -> str | None:
    """Return the energy source of a component's power in a table; None if no named energy source measures it."""
    named = [] if spec.energy_sources == "auto" else list(spec.energy_sources)
    if energy_source is not None:
        try:
            named = [registry.energy_sources.canonical(energy_source)]
        except PluginError as error:
            raise UsageError(f"--energy-source: {error}") from error
    if not named:
        return _DEFAULT_PLATFORM_SOURCE if component in PLATFORM_COMPONENTS else _DEFAULT_SOURCE
    fitting = [source for source in named if component in registry.energy_sources.get(source).components]
    if len(fitting) > 1:
        raise UsageError(f"{' and '.join(fitting)} both measure {component}; choose one with --energy-source")
    return fitting[0] if fitting else None


def _unused_note(table: Table, source_of: Mapping[str, str | None]) -> str:
    """Return a note that lists the unused columns of a table; "" if all columns are used."""
    unused = [*table.unused, *(component for component in table.power if source_of[component] is None)]
    if not unused:
        return ""
    more = f" and {len(unused) - 12} more" if len(unused) > 12 else ""
    names = ", ".join(printable(name, _SHOWN_CHARACTERS) + similar_name(name) for name in unused[:12])
    return f"{table.name}: not used: {names}{more}"
