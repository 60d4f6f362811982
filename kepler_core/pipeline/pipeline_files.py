"""Read pipeline files (YAML) as plain dicts and lists."""

from __future__ import annotations

import difflib
import importlib.resources
import os
from pathlib import Path
from typing import Any

from kepler_core.documents import DocumentError
from kepler_core.errors import PipelineError
from kepler_core.messages import quoted
from kepler_core.yaml_documents import MAX_BYTES, decode_yaml


def shipped_pipelines() -> dict[str, Path]:
    """Return the paths of the pipeline files that Kepler Core ships, by pipeline name."""
    folder = importlib.resources.files("kepler_config") / "pipelines"
    return {
        Path(entry.name).stem: Path(str(entry))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    }


def read_document(source: str) -> dict[str, Any]:
    """Read a shipped pipeline by its name, or a pipeline file by its path."""
    shipped = shipped_pipelines()
    path = shipped.get(source, Path(source))
    if (
        source not in shipped
        and not os.path.isfile(path)
        and "/" not in source
        and path.suffix not in (".yaml", ".yml")
    ):
        near = difflib.get_close_matches(source, shipped, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"shipped: {', '.join(shipped)}"
        raise PipelineError(f"no pipeline {quoted(source)}: neither a shipped pipeline nor a file; {hint}")
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


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        document = decode_yaml(text)
    except DocumentError as error:
        raise PipelineError(error.message, document=source) from error
    if not isinstance(document, dict):
        raise PipelineError(f"a pipeline is a mapping of keys, not {type(document).__name__}", document=source)
    return document
