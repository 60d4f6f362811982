"""Find the installed metric schema that a recording follows, and map metrics with it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache

from kepler_core.contracts import MetricMapping, MetricSchema
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

    `prefix` is the value of the argument `prefix` of the schemas that have it; None: their default.
    """
    return _instances(registry.metric_schemas.entries, prefix)


def installed_schema_names() -> list[str]:
    """Return the names of all installed metric schemas, including schemas that cannot be instantiated."""
    return registry.metric_schemas.names()


def find_schema(metrics: Iterable[str], prefix: str | None = None) -> tuple[str, MetricSchema] | None:
    """Return the name and the instance of the installed metric schema that knows the most of the given metrics.

    `prefix` is the first word of the exporter's metric names, if it is not the word that the schema expects (e.g.
    "kepler"). Schemas without an argument `prefix` ignore it. Returns None if no schema knows any of the metrics.
    """
    metric_names = list(metrics)
    best: tuple[int, str, MetricSchema] | None = None
    for name, schema in _installed_schemas(prefix):
        n_known = sum(map_metric(schema, metric) is not None for metric in metric_names)
        if n_known and (best is None or n_known > best[0]):
            best = n_known, name, schema
    return None if best is None else best[1:]


def is_known_metric(metric: str, prefix: str | None = None) -> bool:
    """Return whether any installed metric schema knows the metric, so that its samples must be read.

    `prefix` has the same meaning as in `find_schema`.
    """
    return any(map_metric(schema, metric) is not None for _, schema in _installed_schemas(prefix))


def map_metric(schema: MetricSchema, metric: str) -> MetricMapping | None:
    """Return the mapping that a schema has for a metric; None if the schema does not know the metric.

    If a schema raises an exception, it is treated as not knowing the metric: a broken plugin must not make recordings
    unreadable. The first error of each schema is logged.
    """
    try:
        mapping = schema.mapping(metric)
        if mapping is not None and not isinstance(mapping, MetricMapping):
            raise TypeError(f"{mapping!r} is no MetricMapping")
    except Exception as error:  # a plugin may raise any exception
        if type(schema) not in _reported:
            _reported.add(type(schema))
            name = registry.metric_schemas.full_name(type(schema))
            log.warning("metric schema %s: mapping(%.40r) failed: %s", name, metric, one_line(error))
        return None
    return mapping
