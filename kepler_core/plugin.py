"""The base class of all plugins, and the version of the plugin contracts."""

from __future__ import annotations

from typing import ClassVar

PLUGIN_API = (1, 1)
"""Version of the contracts of plugins: (major, minor). A new minor version only adds to the contracts; a new major
version may break plugins.

A distribution declares the version that it was written for in the entry-point group
`kepler.plugin_api`. "1.2" means that its plugins work with versions ≥ 1.2 and < 2.0 of the contracts.
Distributions that were written for other versions are not imported."""


class Plugin:
    """Base class of all plugins."""

    extra: ClassVar[str | None] = None
    """The extra of kepler-core (its optional dependencies) that the plugin needs, e.g. "xgboost"; None if it needs
    none."""
