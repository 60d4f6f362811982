"""The settings that say which plugins may be loaded.

They come from the environment or from the configuration folder (`kepler_core.configuration`):

    KEPLER_DISABLE_PLUGIN_AUTOLOAD=1   load kepler-core's own plugins and those that ALLOW names
    KEPLER_PLUGINS_ALLOW=a b           besides kepler-core, load the distributions a and b only
    KEPLER_PLUGINS_DENY=a b:Name       never load distribution a, nor the plugin Name of b

DENY takes precedence over the other two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

import attrs

from kepler_core.configuration import Configuration

OWN = "kepler-core"
"""The distribution of the built-in plugins."""

AUTOLOAD = "KEPLER_DISABLE_PLUGIN_AUTOLOAD"
ALLOW = "KEPLER_PLUGINS_ALLOW"
DENY = "KEPLER_PLUGINS_DENY"


@attrs.frozen
class PluginSettings:
    """Which plugins may be loaded."""

    autoload: bool = True
    allow: tuple[str, ...] | None = None
    """Patterns of distributions or of `distribution:name`; None if the setting is absent."""
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
    """Read the settings of this process."""
    source = configuration or Configuration()

    def patterns(key: str) -> tuple[str, ...] | None:
        text = source.text(key)
        return None if text is None else tuple(word for word in re.split(r"[\s,]+", text) if word)

    disabled = (source.text(AUTOLOAD) or "").casefold() in ("1", "true", "yes", "on")
    return PluginSettings(not disabled, patterns(ALLOW), patterns(DENY) or ())


def normalised(distribution: str) -> str:
    """Return the one spelling of a distribution's name that PEP 503 defines for all its spellings."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _matches(patterns: Iterable[str], distribution: str, name: str) -> bool:
    for pattern in patterns:
        wanted_distribution, _, wanted_name = pattern.partition(":")
        if fnmatchcase(normalised(distribution), normalised(wanted_distribution)) and (
            not wanted_name or fnmatchcase(name, wanted_name)
        ):
            return True
    return False
