"""The base class of all plugins, and the version of the plugin contracts."""

from __future__ import annotations

from typing import ClassVar

PLUGIN_API = (1, 0)
"""Version of the contracts of plugins: (major, minor). Minor versions only add parts; major ones may break plugins.

A distribution declares the version that it was written for in the entry-point group
`kepler.plugin_api`. "1.2" means that its plugins work with versions ≥ 1.2 and < 2.0 of the contracts.
Distributions that were written for other versions are not imported."""


class Plugin:
    """Base class of all plugins."""

    extra: ClassVar[str | None] = None
    """The optional-dependency extra of kepler-core that the plugin needs, for example "xgboost"; None: no extra."""
