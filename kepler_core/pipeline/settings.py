"""Change single keys of a pipeline document, as the option `--set PATH=VALUE` does."""

from __future__ import annotations

from typing import Any

import attrs

from kepler_core.documents import MAX_DEPTH, DocumentError
from kepler_core.errors import PipelineError
from kepler_core.messages import QUOTED_CHARACTERS, printable, quoted
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.yaml_documents import decode_yaml

_SHOWN_CHARACTERS = 100
_MAX_INDEX_DIGITS = 9


def apply_setting(document: dict[str, Any], setting: str) -> None:
    """Change one key of a pipeline document.

    `setting` is `path=value`. The path consists of keys and list indices, joined by dots; the value is YAML.
    """
    path, equals, text = setting.partition("=")
    option = printable(f"--set {setting}", _SHOWN_CHARACTERS)
    if not equals or not path:
        raise PipelineError("expected path=value, e.g. validation.folds=3", document=option)
    *keys, last = path.split(".")
    if len(keys) > MAX_DEPTH:
        raise PipelineError(f"the path has more than {MAX_DEPTH} keys", document=option)
    try:
        value = decode_yaml(text)
    except DocumentError as error:
        raise PipelineError(f"the value is not YAML: {error.message}", document=option) from error
    parent: Any = document
    for key in keys:
        _write_as_mapping(parent, key)
        parent = parent[_index(key, parent, option)] if isinstance(parent, list) else parent.setdefault(key, {})
        if not isinstance(parent, dict | list):
            raise PipelineError(
                f"{printable(key, QUOTED_CHARACTERS)} has no keys to set (it is {quoted(parent)})", document=option
            )
    if isinstance(parent, list):
        parent[_index(last, parent, option)] = value
    else:
        parent[last] = value


def _write_as_mapping(parent: Any, key: str) -> None:
    """Replace a plugin's name under `key` by the mapping `{name: ...}`, so that the plugin's `args` can be set.

    If the document names no extractor or no isolator, the mapping gets the name of the default plugin.
    """
    if isinstance(parent, dict) and key in ("extractor", "isolator"):
        default: PluginSpec = getattr(attrs.fields(PipelineSpec), key).default
        name = parent.setdefault(key, default.name)
        if isinstance(name, str):
            parent[key] = {"name": name}
    elif isinstance(parent, list) and _is_index(key, parent):
        name = parent[int(key)]
        if isinstance(name, str):
            parent[int(key)] = {"name": name}


def _index(key: str, items: list[Any], option: str) -> int:
    if not _is_index(key, items):
        raise PipelineError(f"{quoted(key)} is not an index of a list with {len(items)} items", document=option)
    return int(key)


def _is_index(key: str, items: list[Any]) -> bool:
    return key.isascii() and key.isdecimal() and len(key) <= _MAX_INDEX_DIGITS and int(key) < len(items)
