"""The settings that decide which plugins may be loaded.

The settings come from the environment or from the configuration folder (`kepler_core.configuration`):

    KEPLER_DISABLE_PLUGIN_AUTOLOAD=1   load third-party plugins only if KEPLER_PLUGINS_ALLOW names them
    KEPLER_PLUGINS_ALLOW=a b           load third-party plugins only of the distributions a and b
    KEPLER_PLUGINS_DENY=a b:Name       never load plugins of distribution a, nor the plugin Name of b

KEPLER_PLUGINS_DENY takes precedence over the other two settings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import attrs

from kepler_core.configuration import Configuration

OWN = "kepler-core"
"""Name of the distribution that contains the built-in plugins."""

AUTOLOAD = "KEPLER_DISABLE_PLUGIN_AUTOLOAD"
ALLOW = "KEPLER_PLUGINS_ALLOW"
DENY = "KEPLER_PLUGINS_DENY"


@attrs.frozen
class PluginSettings:
    """Settings that decide which plugins may be loaded."""

    autoload: bool = True
    allow: tuple[str, ...] | None = None
    """Patterns of the third-party plugins that may be loaded; None if the setting is absent.

    A pattern matches a distribution or `distribution:name`, with wildcards as in `fnmatch`.
    """
    deny: tuple[str, ...] = ()

    def reason_against(self, distribution: str, name: str) -> str:
        """Return the reason why a plugin is turned off, or "" if it may be loaded."""
        if _matches(self.deny, distribution, name):
            return f"turned off: {DENY} names it"
        if distribution == OWN or _matches(self.allow or (), distribution, name):
            return ""
        if self.allow is not None:
            return f"turned off: {ALLOW} does not name it"
        if not self.autoload:
            return f"turned off: {AUTOLOAD} is set, and {ALLOW} does not name it"
        return ""


def read_settings(configuration: Configuration | None = None) -> PluginSettings:
    """Read the plugin settings from the environment or the configuration folder."""
    source = configuration or Configuration()

    def patterns(key: str) -> tuple[str, ...] | None:
        text = source.text(key)
        return None if text is None else tuple(word for word in re.split(r"[\s,]+", text) if word)

    disabled = (source.text(AUTOLOAD) or "").casefold() in ("1", "true", "yes", "on")
    return PluginSettings(not disabled, patterns(ALLOW), patterns(DENY) or ())


def normalised(distribution: str) -> str:
    """Return a distribution's name in the normalised spelling of PEP 503, e.g. `my-plugin` for `My_Plugin`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _matches(patterns: Iterable[str], distribution: str, name: str) -> bool:
    for pattern in patterns:
        wanted_distribution, _, wanted_name = pattern.partition(":")
        if fnmatchcase(normalised(distribution), normalised(wanted_distribution)) and (
            not wanted_name or fnmatchcase(name, wanted_name)
        ):
            return True
    return False
