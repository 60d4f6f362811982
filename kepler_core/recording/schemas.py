"""Find the installed metric schemas that know the metrics of a recording, and use these schemas to map the metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import attrs

from kepler_core.contracts import MachineMapping, MetricMapping, MetricSchema, UnusedMetric
from kepler_core.errors import PluginError, UsageError
from kepler_core.messages import one_line
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import ArgumentError, arguments_of, create
from kepler_core.plugins.entries import PluginEntry

log = logging.getLogger(__name__)

_reported: set[type[MetricSchema]] = set()
"""Metric schema classes whose first error has been logged; further errors of these classes are not logged."""


@lru_cache(maxsize=4)
def _instances(entries: tuple[PluginEntry, ...], prefix: str | None) -> tuple[tuple[str, MetricSchema], ...]:
    schemas = []
    for name, plugin in sorted(registry.metric_schemas.load_all()[0].items()):
        try:
            takes_prefix = prefix is not None and any(argument.name == "prefix" for argument in arguments_of(plugin))
            schemas.append((name, create(plugin, name, {"prefix": prefix} if takes_prefix else {})))
        except ArgumentError as error:
            raise UsageError(f"--metric-prefix: {error.message}") from error
        except PluginError as error:
            log.warning("metric schema %s cannot be used: %s", name, error)
    return tuple(schemas)


def _installed_schemas(prefix: str | None) -> tuple[tuple[str, MetricSchema], ...]:
    """Return (name, schema) for each installed metric schema that can be instantiated, sorted by name.

    `prefix` is passed to each schema that has an argument `prefix`. If it is None, the schemas use their defaults.
    """
    return _instances(registry.metric_schemas.entries, prefix)


def installed_schemas(prefix: str | None = None) -> list[MetricSchema]:
    """Return the installed metric schemas that can be instantiated. `prefix` is explained at `find_schemas`."""
    return [schema for _, schema in _installed_schemas(prefix)]


def installed_schema_names() -> list[str]:
    """Return the names of all installed metric schemas, including schemas that cannot be instantiated."""
    return registry.metric_schemas.names()


@attrs.frozen
class MetricUse:
    """A metric, the schema that knows the metric, and what the schema states about the metric's series."""

    schema_name: str
    schema: MetricSchema
    mappings: tuple[MetricMapping, ...]
    unused: tuple[UnusedMetric, ...]

    @property
    def reason_unused(self) -> str:
        """Why no series of the metric is used; empty if the metric has mappings."""
        return "" if self.mappings else "; ".join(dict.fromkeys(entry.reason for entry in self.unused))


@attrs.frozen
class SchemaUse:
    """The installed metric schemas that know metrics of a recording or a server, and the metrics that they know."""

    schemas: tuple[tuple[str, MetricSchema], ...]
    """Names and instances of the schemas, in the order in which they are preferred.

    Schemas with features by container or process come first. Otherwise, schemas that know more metrics come first."""
    metrics: Mapping[str, MetricUse]
    """The known metrics, by name. If several schemas know a metric, the first of `schemas` is used."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the schemas."""
        return tuple(name for name, _ in self.schemas)

    def mappings(self, metric: str) -> tuple[MetricMapping, ...]:
        """Return the mappings of a metric; nothing if no schema knows the metric, or if the metric is not used."""
        use = self.metrics.get(metric)
        return () if use is None else use.mappings

    @property
    def has_mappings(self) -> bool:
        """Whether any of the known metrics is used."""
        return any(use.mappings for use in self.metrics.values())

    def spelling(self, level: str, name: str) -> str:
        """Return the name of a metric for the feature or component `name`, from the first schema that has one.

        Return `name` itself if no schema has such a metric.
        """
        spellings = (schema.spelling(level, name) for _, schema in self.schemas)
        return next((spelling for spelling in spellings if spelling != name), name)


def find_schemas(metrics: Iterable[str], prefix: str | None = None) -> SchemaUse:
    """Return the installed metric schemas that know any of the given metrics.

    `prefix` is the first word of the exporter's metric names, if it is not the word that the schema expects (e.g.
    "kepler"). Schemas without an argument `prefix` ignore it. A schema is left out if preferred schemas know all of its
    metrics.
    """
    metric_names = list(metrics)
    known: list[tuple[str, MetricSchema, dict[str, MetricUse]]] = []
    for name, schema in _installed_schemas(prefix):
        entries = ((metric, mappings_of(schema, metric)) for metric in metric_names)
        uses = {metric: _use(name, schema, mappings) for metric, mappings in entries if mappings}
        if uses:
            known.append((name, schema, uses))
    known.sort(key=lambda entry: (not _has_units(entry[2]), -len(entry[2])))
    schemas: list[tuple[str, MetricSchema]] = []
    by_metric: dict[str, MetricUse] = {}
    for name, schema, uses in known:
        if uses.keys() - by_metric.keys():
            schemas.append((name, schema))
            by_metric = {**uses, **by_metric}
    return SchemaUse(tuple(schemas), by_metric)


def _has_units(uses: Mapping[str, MetricUse]) -> bool:
    """Return whether any of the metrics is a feature of containers or processes."""
    return any(m.kind == "feature" and m.level != "node" for use in uses.values() for m in use.mappings)


def _use(name: str, schema: MetricSchema, entries: Sequence[MetricMapping | UnusedMetric]) -> MetricUse:
    mappings = tuple(entry for entry in entries if isinstance(entry, MetricMapping))
    return MetricUse(name, schema, mappings, tuple(entry for entry in entries if isinstance(entry, UnusedMetric)))


def is_used_metric(metric: str, prefix: str | None = None) -> bool:
    """Return whether any installed metric schema uses series of the metric, so that its samples must be read.

    `prefix` has the same meaning as in `find_schemas`.
    """
    return any(
        isinstance(entry, MetricMapping)
        for _, schema in _installed_schemas(prefix)
        for entry in mappings_of(schema, metric)
    )


def mappings_of(schema: MetricSchema, metric: str) -> tuple[MetricMapping | UnusedMetric, ...]:
    """Return what a schema states about a metric; nothing if the schema does not know the metric.

    If a schema raises an exception, it is treated as not knowing the metric: a broken plugin must not make recordings
    unreadable. The first error of each schema is logged.
    """
    try:
        entries = tuple(schema.mappings(metric))
        for entry in entries:
            if not isinstance(entry, (MetricMapping, UnusedMetric)):
                raise TypeError(f"{entry!r} is no MetricMapping and no UnusedMetric")
    except Exception as error:  # a plugin may raise any exception
        _report(schema, "mappings", metric, error)
        return ()
    return entries


def machine_mappings_of(schema: MetricSchema, metric: str) -> tuple[MachineMapping, ...]:
    """Return what a metric states about machines; nothing if the schema raises an exception, as in `mappings_of`."""
    try:
        entries = tuple(schema.machine_mappings(metric))
        for entry in entries:
            if not isinstance(entry, MachineMapping):
                raise TypeError(f"{entry!r} is no MachineMapping")
    except Exception as error:  # a plugin may raise any exception
        _report(schema, "machine_mappings", metric, error)
        return ()
    return entries


def is_machine_metric(metric: str, prefix: str | None = None) -> bool:
    """Return whether any installed metric schema finds attributes of machines in the metric.

    `prefix` has the same meaning as in `find_schemas`.
    """
    return any(machine_mappings_of(schema, metric) for schema in installed_schemas(prefix))


def _report(schema: MetricSchema, method: str, metric: str, error: Exception) -> None:
    """Log the first error of a schema class."""
    if type(schema) not in _reported:
        _reported.add(type(schema))
        name = registry.metric_schemas.full_name(type(schema))
        log.warning("metric schema %s: %s(%.40r) failed: %s", name, method, metric, one_line(error))
