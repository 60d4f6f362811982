"""Changes to single keys of a pipeline: `--set PATH=VALUE`."""

from __future__ import annotations

from typing import Any

import attrs
import yaml

from kepler_core.errors import PipelineError
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.pipeline.yaml_document import load_yaml


def apply_setting(document: dict[str, Any], setting: str) -> None:
    """Change a document by `path=value`: keys and list indices joined by dots, and a YAML value."""
    path, equals, text = setting.partition("=")
    option = f"--set {setting}"
    if not equals or not path:
        raise PipelineError("expected path=value, e.g. validation.folds=3", document=option)
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        raise PipelineError("the value is not YAML", document=option) from error
    parent: Any = document
    *keys, last = path.split(".")
    for key in keys:
        _write_as_mapping(parent, key)
        parent = parent[_index(key, parent, option)] if isinstance(parent, list) else parent.setdefault(key, {})
        if not isinstance(parent, dict | list):
            raise PipelineError(f"{key} has no keys to set (it is {parent!r})", document=option)
    if isinstance(parent, list):
        parent[_index(last, parent, option)] = value
    else:
        parent[last] = value


def _write_as_mapping(parent: Any, key: str) -> None:
    """Replace a plugin that is written as its name, or left out, by a mapping in which `args` can be set."""
    if isinstance(parent, dict) and key in ("extractor", "isolator"):
        default: PluginSpec = getattr(attrs.fields(PipelineSpec), key).default
        name = parent.setdefault(key, default.name)
        if isinstance(name, str):
            parent[key] = {"name": name}
    elif isinstance(parent, list) and key.isdigit() and int(key) < len(parent):
        name = parent[int(key)]
        if isinstance(name, str):
            parent[int(key)] = {"name": name}


def _index(key: str, items: list[Any], option: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise PipelineError(f"{key!r} is not an index of a list of {len(items)}", document=option)
    return int(key)
