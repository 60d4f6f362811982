"""Find the energy sources that the source name in a request stands for."""

from __future__ import annotations

from collections.abc import Collection

from kepler_core.errors import PluginError, RequestError, close_matches
from kepler_core.messages import quoted
from kepler_core.plugins import registry


def matching_sources(name: str, model_sources: Collection[str]) -> frozenset[str]:
    """Return the energy sources that a name stands for.

    The name is a source's own name, an alias, or a name by which Kepler requests several sources.
    `model_sources` are the energy sources of the stored models; their plugins need not be installed. Raises
    `RequestError` if the name is unknown.
    """
    matching = {name} & {*model_sources, *registry.energy_sources.names()}
    known = set(model_sources).union(*(entry.aliases for entry in registry.energy_sources.entries))
    for source in registry.energy_sources.names():
        known.add(source)
        try:
            sent_as = registry.energy_sources.preferred(source).sent_as
        except PluginError:
            continue  # a broken plugin does not affect other sources; `plugins doctor` reports it
        known.add(sent_as)
        if sent_as == name:
            matching.add(source)
    try:
        matching.add(registry.energy_sources.canonical(name))
    except PluginError as error:
        if not matching:
            raise RequestError(
                "source", f"unknown energy source {quoted(name)}; {close_matches(name[:60], known)}"
            ) from error
    return frozenset(matching)
