"""Convert the arguments of isolators that older clients send: with old names, and with text for numbers and flags."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, get_args

from kepler_core.errors import PluginError, RequestError
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import argument_types
from kepler_servers.http.text_values import flag_or_number

log = logging.getLogger(__name__)

ARGUMENTS_KEY = "trainer.isolator_args"
"""Key of the isolator's arguments in training requests of older clients."""
OLD_NAMES = {"background_hints": "bg_hints"}
"""Names that isolators' arguments have in kepler-model-server 0.7, by the present name."""
IGNORED = "abs_pipeline_name"
"""Name of an argument that names a pipeline. The isolator of kepler-model-server 0.7 uses the models of this pipeline.
Isolators of Kepler Core do not need a pipeline."""


def isolator_arguments(isolator: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an isolator. Texts become numbers and flags where the isolator expects them.

    Old names (see `OLD_NAMES`) are replaced by new names. The argument `IGNORED` is left out and logged, unless the
    isolator declares an argument with this name. Raises `RequestError` if the client has sent an argument under both
    its old and its new name.

    The type annotation of an argument decides whether a number or a flag is expected. A text stays unchanged if the
    argument may be text, or if the text is neither a number nor a flag. If the isolator cannot be loaded, all texts
    stay unchanged. The later check of the pipeline reports texts that should be numbers or flags, and isolators that
    cannot be loaded.
    """
    if not arguments:
        return {}
    try:
        types = argument_types(registry.isolators.get(isolator), isolator)
    except PluginError:
        return dict(arguments)
    return {
        name: _converted(value, types.get(name)) if isinstance(value, str) else value
        for name, value in _renamed(isolator, arguments, types).items()
    }


def _renamed(isolator: str, arguments: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    renamed = dict(arguments)
    if IGNORED in renamed and IGNORED not in types:
        log.info("%s.%s is ignored: isolator %s has no such argument", ARGUMENTS_KEY, IGNORED, isolator)
        del renamed[IGNORED]
    for name, old in OLD_NAMES.items():
        if old in renamed and old not in types and name in types:
            if name in renamed:
                raise RequestError(
                    f"{ARGUMENTS_KEY}.{old}", f"this value is also given as {name}; one of them is enough"
                )
            renamed[name] = renamed.pop(old)
    return renamed


def _converted(text: str, kind: Any) -> Any:
    parts = get_args(kind) or (kind,)
    if str in parts:
        return text
    return flag_or_number(text, is_flag=bool in parts, is_number=int in parts or float in parts)
