"""The installed energy sources, as the meters that a recording may have energy counters of."""

from __future__ import annotations

import attrs

from kepler_core.plugins import registry


@attrs.frozen
class Meter:
    """An energy source and what it measures."""

    source: str
    """Name of the energy source plugin."""
    components: tuple[str, ...]
    """The components that the plugin declares."""


def installed_meters() -> dict[str, Meter]:
    """Return the meters of the installed energy sources by the source labels that they read."""
    plugins = registry.energy_sources.load_all()[0]
    return {label: Meter(name, plugin.components) for name, plugin in plugins.items() for label in plugin.reads}
