"""Checks of the numbers that a pipeline passes to plugins as arguments.

The attribute `path` of an error has the name of the wrong argument.
"""

from __future__ import annotations

import math

from kepler_core.errors import PluginError


def check_at_least(argument: str, value: float, lowest: float) -> None:
    """Raise `PluginError` unless the value of an argument is finite and at least `lowest`."""
    if not (math.isfinite(value) and value >= lowest):
        raise PluginError(f"must be at least {lowest:g}, not {value}", path=(argument,))


def check_at_most(argument: str, value: float, highest: float) -> None:
    """Raise `PluginError` unless the value of an argument is at most `highest`."""
    if not value <= highest:
        raise PluginError(f"must be at most {highest:g}, not {value}", path=(argument,))


def check_above(argument: str, value: float, limit: float, highest: float = math.inf) -> None:
    """Raise `PluginError` unless the value of an argument is finite, above `limit`, and at most `highest`."""
    if not (math.isfinite(value) and limit < value <= highest):
        at_most = "" if math.isinf(highest) else f" and at most {highest:g}"
        raise PluginError(f"must be above {limit:g}{at_most}, not {value}", path=(argument,))
