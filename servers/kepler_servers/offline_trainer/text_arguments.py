"""Conversion of isolators' arguments: older clients send them as text, even where numbers or flags are expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from kepler_core.errors import PluginError
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import argument_types
from kepler_servers.http.text_values import flag_or_number


def isolator_arguments(isolator: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an isolator, with texts replaced by numbers and flags where the isolator expects them.

    The annotation of an argument decides what it expects. A text stays unchanged if the argument may be text, or if
    the text is neither a number nor a flag. If the isolator cannot be loaded, all texts stay unchanged. The later
    check of the pipeline reports texts that should be numbers or flags, and isolators that cannot be loaded.
    """
    if not any(isinstance(value, str) for value in arguments.values()):
        return dict(arguments)
    try:
        types = argument_types(registry.isolators.get(isolator), isolator)
    except PluginError:
        return dict(arguments)
    return {
        name: _converted(value, types.get(name)) if isinstance(value, str) else value
        for name, value in arguments.items()
    }


def _converted(text: str, kind: Any) -> Any:
    parts = get_args(kind) or (kind,)
    if str in parts:
        return text
    return flag_or_number(text, is_flag=bool in parts, is_number=int in parts or float in parts)
