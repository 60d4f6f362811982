"""The installed energy sources: power meters whose energy counters a recording may contain."""

from __future__ import annotations

import attrs

from kepler_core.plugins import registry


@attrs.frozen
class Meter:
    """An energy source and the components whose power it measures."""

    source: str
    """Name of the energy source plugin."""
    components: tuple[str, ...]
    """The components that the energy source plugin declares, in the plugin's order."""


def installed_meters() -> dict[str, Meter]:
    """Return the meters of the installed energy sources, by the value of the label `source` that stands for them."""
    plugins = registry.energy_sources.load_all()[0]
    return {label: Meter(name, plugin.components) for name, plugin in plugins.items() for label in plugin.reads}
