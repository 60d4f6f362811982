"""Load a pipeline file as a `PipelineSpec`. Errors name the file and the wrong key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs
import msgspec

from kepler_core.errors import PipelineError, PluginError
from kepler_core.messages import quoted
from kepler_core.pipeline.pipeline_files import read_document, shipped_pipelines
from kepler_core.pipeline.settings import apply_setting
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import ArgumentError
from kepler_core.strict import converter, structure, structuring_problem
from kepler_core.yaml_documents import encode_yaml

__all__ = [
    "as_document",
    "load_pipeline",
    "pipeline_digest",
    "pipeline_from",
    "resolved",
    "shipped_pipelines",
    "to_yaml",
]

MAX_ARGUMENT_DEPTH = 16
"""Maximum nesting depth of a plugin's arguments that is accepted. Arguments are stored in JSON files, whose depth is
also limited."""


def load_pipeline(
    source: str | Path, *, settings: Sequence[str] = (), name: str | None = None, resolve: bool = True
) -> PipelineSpec:
    """Load a shipped pipeline by its name, or a pipeline file by its path, and apply `settings` (`path=value`).

    If `resolve` is false, the plugins that the pipeline names need not be installed: they are not looked up.
    """
    path = str(source)
    document = read_document(path)
    for setting in settings:
        apply_setting(document, setting)
    document.setdefault("name", Path(path).stem)
    if name is not None:
        document["name"] = name
    return pipeline_from(document, path, resolve=resolve)


def pipeline_from(document: Mapping[str, Any], where: str, *, resolve: bool = True) -> PipelineSpec:
    """Return the pipeline in a decoded document. `where` is the document's name in error messages.

    Raise `PipelineError` with the path of the wrong key if the document is not a valid pipeline.
    """
    try:
        spec: PipelineSpec = structure(document, PipelineSpec)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        path, message = structuring_problem(error)
        raise PipelineError(message, path=path, document=where) from error
    return resolved(spec, where) if resolve else spec


def resolved(spec: PipelineSpec, where: str) -> PipelineSpec:
    """Return a copy of the pipeline in which aliases of plugins are replaced by the plugins' names.

    Raise `PipelineError` if a plugin does not exist or does not accept its arguments.
    """
    spec = attrs.evolve(
        spec,
        energy_sources=_resolved_sources(spec.energy_sources, where),
        extractor=_resolved_plugin(registry.extractors, spec.extractor, where, "extractor"),
        isolator=_resolved_plugin(registry.isolators, spec.isolator, where, "isolator"),
        abs_trainers=_resolved_trainers(spec.abs_trainers, where, "abs_trainers"),
        dyn_trainers=_resolved_trainers(spec.dyn_trainers, where, "dyn_trainers"),
    )
    if not spec.abs_trainers and not spec.dyn_trainers:
        raise PipelineError("names no trainer: fill abs_trainers, dyn_trainers or both", document=where)
    return spec


def as_document(spec: PipelineSpec) -> dict[str, Any]:
    """Return the pipeline as the content of a file, with all defaults filled in."""
    return attrs.asdict(spec)


def pipeline_digest(spec: PipelineSpec) -> str:
    """Return the SHA-256 of all keys of a pipeline except its name and description."""
    document = as_document(spec)
    del document["name"], document["description"]
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def to_yaml(spec: PipelineSpec) -> str:
    """Return the pipeline as YAML, with all defaults filled in."""
    return encode_yaml(as_document(spec))


def _resolved_plugin(plugins: registry.Registry[Any], plugin: PluginSpec, where: str, *path: str | int) -> PluginSpec:
    try:
        entry = plugins.entry(plugin.name)
        plugins.create(entry.full_name, plugin.args)
    except PluginError as error:
        below = ("args", *error.argument_path) if isinstance(error, ArgumentError) else ()
        raise PipelineError(str(error), path=(*path, *below), document=where) from error
    distribution = plugin.name.rpartition(":")[0]
    return attrs.evolve(plugin, name=f"{distribution}:{entry.name}" if distribution else entry.name)


def _resolved_trainers(trainers: list[PluginSpec], where: str, key: str) -> list[PluginSpec]:
    resolved: dict[str, PluginSpec] = {}
    for index, trainer in enumerate(trainers):
        plugin = _resolved_plugin(registry.trainers, trainer, where, key, index)
        name = plugin.name.rpartition(":")[2]
        if name in resolved:
            message = f"{name} is named twice; models of one name would collide"
            raise PipelineError(message, path=(key,), document=where)
        resolved[name] = plugin
    return list(resolved.values())


def _resolved_sources(sources: list[str] | str, where: str) -> list[str] | Any:
    if isinstance(sources, str):
        return sources
    resolved: list[str] = []
    for index, source in enumerate(sources):
        path = ("energy_sources", index)
        try:
            name = registry.energy_sources.canonical(source)
        except PluginError as error:
            raise PipelineError(str(error), path=path, document=where) from error
        if name in resolved:
            raise PipelineError(f"{name} appears twice", path=path, document=where)
        resolved.append(name)
    return resolved


def _plugin_spec(value: Any, _: Any) -> PluginSpec:
    """Convert a plugin's name, or a mapping of `name` and `args`, to a `PluginSpec`; called by cattrs."""
    if isinstance(value, str):
        return PluginSpec(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{quoted(value)} is neither a plugin's name nor {{name: ..., args: {{...}}}}")
    for key in value:
        if key not in ("name", "args"):
            raise ValueError(f"unknown key {quoted(key)} of a plugin; known: name, args (arguments go under args)")
    if not isinstance(value.get("name"), str):
        raise ValueError("a plugin needs a name")
    args = value.get("args") or {}
    if not isinstance(args, Mapping):
        raise ValueError(f"args: {quoted(args)} is not a mapping")
    if _is_deeper(args, MAX_ARGUMENT_DEPTH):
        raise ValueError(f"args are nested deeper than {MAX_ARGUMENT_DEPTH} levels")
    return PluginSpec(value["name"], dict(args))


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether dicts and lists in a value are nested more than `levels` deep."""
    layer = [value]
    for _ in range(levels):
        items = [item for parent in layer for item in (parent.values() if isinstance(parent, Mapping) else parent)]
        layer = [item for item in items if isinstance(item, Mapping | list)]
    return bool(layer)


converter().register_structure_hook(PluginSpec, _plugin_spec)
