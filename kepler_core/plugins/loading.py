"""Import one plugin, with stevedore."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from stevedore import DriverManager

from kepler_core.plugins.entries import PluginEntry, installed_plugins

if TYPE_CHECKING:
    _DriverManager = DriverManager[Any]
else:
    _DriverManager = DriverManager  # the class of older versions is not generic


class PluginDriver(_DriverManager):
    """stevedore's `DriverManager`, which imports one plugin by its name.

    Only the list of entry points is ours. stevedore (5.10) lists them from a cache that drops the
    distribution, which decides before any import whether a plugin may be loaded and which of two
    plugins with one name is meant. The names here are full names, `distribution:name`.
    """

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        """Return the entry points of the namespace that may be loaded."""
        return [entry.entry_point for entry in installed_plugins().of(self.namespace) if entry.refusal is None]


def load_entry(entry: PluginEntry) -> Any:
    """Import a plugin and return what its entry point names.

    Raises whatever the plugin's module raises, `SystemExit` included.
    """
    return PluginDriver(entry.namespace, entry.full_name).driver
