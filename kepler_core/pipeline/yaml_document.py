"""YAML files with pipelines, as plain dicts and lists."""

from __future__ import annotations

import difflib
import importlib.resources
from pathlib import Path
from typing import Any

import yaml

from kepler_core.errors import PipelineError

MAX_BYTES = 2**20


def shipped_pipelines() -> dict[str, Path]:
    """Return the files of the pipelines that come with Kepler Core, by name."""
    folder = importlib.resources.files("kepler_config") / "pipelines"
    return {
        Path(entry.name).stem: Path(str(entry))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    }


def read_document(source: str) -> dict[str, Any]:
    """Read a shipped pipeline by its name, or a file by its path."""
    shipped = shipped_pipelines()
    path = shipped.get(source, Path(source))
    if source not in shipped and not path.is_file() and "/" not in source and path.suffix not in (".yaml", ".yml"):
        near = difflib.get_close_matches(source, shipped, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"shipped: {', '.join(shipped)}"
        raise PipelineError(f"no pipeline {source!r}: neither a shipped one nor a file; {hint}")
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise PipelineError(f"larger than {MAX_BYTES} bytes; that is no pipeline", document=source)
        return _parse(content.decode("utf-8"), source)
    except OSError as error:
        raise PipelineError(error.strerror or str(error), document=source) from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"not UTF-8 text ({error.reason} at byte {error.start})", document=source) from error


def load_yaml(text: str) -> Any:
    """Load YAML with plain values only; raise `yaml.YAMLError` also if a mapping has a key twice."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader


class _Loader(yaml.SafeLoader):
    """Safe YAML with unique keys. PyYAML itself lets the last of two equal keys win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} appears twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        document = _without_aliases(load_yaml(text))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise PipelineError(f"{at}{getattr(error, 'problem', None) or error}", document=source) from error
    except RecursionError as error:
        raise PipelineError("nested too deeply", document=source) from error
    if not isinstance(document, dict):
        raise PipelineError(f"a pipeline is a mapping of keys, not {type(document).__name__}", document=source)
    return document


def _without_aliases(value: Any) -> Any:
    """Return a copy in which a list with a YAML anchor is copied for each alias, so that each can be changed."""
    if isinstance(value, dict):
        return {key: _without_aliases(item) for key, item in value.items()}
    return [_without_aliases(item) for item in value] if isinstance(value, list) else value
