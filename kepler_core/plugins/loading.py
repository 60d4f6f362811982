"""The import of a plugin, with stevedore."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

from stevedore import DriverManager

from kepler_core.plugins.entries import PluginEntry, installed_plugins

if TYPE_CHECKING:
    _DriverManager = DriverManager[Any]
else:
    _DriverManager = DriverManager  # in older versions of stevedore, the class is not generic


class PluginDriver(_DriverManager):
    """Variant of stevedore's `DriverManager` that imports a plugin by its full name, `distribution:name`.

    The plugin's distribution must be known, to check whether the plugin may be loaded and to distinguish plugins of
    the same name. stevedore (5.10) lists entry points from a cache without the distributions, so this class
    overrides the list of entry points.
    """

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        """Return the entry points of the namespace's plugins that may be loaded."""
        return [entry.entry_point for entry in installed_plugins().of(self.namespace) if entry.refusal is None]


def load_entry(entry: PluginEntry) -> Any:
    """Import a plugin and return the class, module or other object that its entry point names.

    Exceptions of the plugin's module are not caught, not even `SystemExit`.
    """
    return PluginDriver(entry.namespace, entry.full_name).driver
