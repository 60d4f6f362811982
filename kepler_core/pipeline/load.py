"""Pipeline files: YAML to `PipelineSpec`, with errors that name the key."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs
import msgspec
import yaml

from kepler_core.errors import PipelineError, PluginError
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.plugins import registry
from kepler_core.strict import converter, structure, structuring_problem

MAX_BYTES = 2**20


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that is written twice is an error, not the last one's victory."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is there twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _plugin_hook(value: Any, _: Any) -> PluginSpec:
    if isinstance(value, str):
        return PluginSpec(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is neither a plugin's name nor {{name: ..., args: {{...}}}}")
    known = [field.name for field in attrs.fields(PluginSpec)]
    for key in value:
        if key not in known:
            raise ValueError(f"unknown key {key!r} of a plugin; known: name, args (arguments go under args)")
    if not isinstance(value.get("name"), str):
        raise ValueError("a plugin needs a name")
    args = value.get("args") or {}
    if not isinstance(args, Mapping):
        raise ValueError(f"args: {args!r} is not a mapping")
    return PluginSpec(value["name"], dict(args))


converter().register_structure_hook(PluginSpec, _plugin_hook)


def shipped_pipelines() -> dict[str, Path]:
    """Name -> file of the pipelines that come with the package."""
    folder = importlib.resources.files("kepler_config") / "pipelines"
    return {
        Path(entry.name).stem: Path(str(entry))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".yaml")
    }


def load_pipeline(
    source: str | Path, *, settings: Sequence[str] = (), name: str | None = None, resolve: bool = True
) -> PipelineSpec:
    """A pipeline by the name of a shipped one or by its file; `settings` are `path=value`.

    Without `resolve` no plugin is looked up or imported.
    """
    path, text = _read(str(source))
    document = _parse(text, path)
    for setting in settings:
        _set(document, setting)
    document.setdefault("name", Path(path).stem)
    if name is not None:
        document["name"] = name
    return pipeline_from(document, path, resolve=resolve)


def pipeline_from(document: Mapping[str, Any], where: str, *, resolve: bool = True) -> PipelineSpec:
    """A pipeline from a decoded document; `PipelineError` names the path of what is wrong."""
    try:
        spec: PipelineSpec = structure(document, PipelineSpec)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        path, message = structuring_problem(error)
        raise PipelineError(message, path=path, document=where) from error
    return resolved(spec, where) if resolve else spec


def resolved(spec: PipelineSpec, where: str) -> PipelineSpec:
    """The pipeline with every plugin's full name; `PipelineError` for one that does not exist or
    does not take its arguments."""

    def plugin(of: registry.Registry[Any], found: PluginSpec, *path: str | int) -> PluginSpec:
        try:
            entry = of.entry(found.name)
            of.create(entry.full_name, found.args)
        except PluginError as error:
            raise PipelineError(str(error), path=path, document=where) from error
        distribution = found.name.rpartition(":")[0]
        return attrs.evolve(found, name=f"{distribution}:{entry.name}" if distribution else entry.name)

    def many(of: registry.Registry[Any], found: list[PluginSpec], path: str) -> list[PluginSpec]:
        done = [plugin(of, one, path, index) for index, one in enumerate(found)]
        names = [one.name.rpartition(":")[2] for one in done]
        if twice := [name for name in names if names.count(name) > 1]:
            message = f"{twice[0]} is named twice; models of one name would collide"
            raise PipelineError(message, path=(path,), document=where)
        return done

    sources = spec.energy_sources
    if not isinstance(sources, str):
        checked = []
        for index, source in enumerate(sources):
            try:
                checked.append(registry.energy_sources.canonical(source))
            except PluginError as error:
                raise PipelineError(str(error), path=("energy_sources", index), document=where) from error
            if checked[-1] in checked[:-1]:
                message = f"{checked[-1]} is there twice"
                raise PipelineError(message, path=("energy_sources", index), document=where)
        sources = checked
    spec = attrs.evolve(
        spec,
        energy_sources=sources,
        extractor=plugin(registry.extractors, spec.extractor, "extractor"),
        isolator=plugin(registry.isolators, spec.isolator, "isolator"),
        abs_trainers=many(registry.trainers, spec.abs_trainers, "abs_trainers"),
        dyn_trainers=many(registry.trainers, spec.dyn_trainers, "dyn_trainers"),
    )
    if not spec.abs_trainers and not spec.dyn_trainers:
        raise PipelineError("names no trainer: fill abs_trainers, dyn_trainers or both", document=where)
    return spec


def as_document(spec: PipelineSpec) -> dict[str, Any]:
    """The pipeline as it would be written, all defaults filled in."""
    return attrs.asdict(spec)


def pipeline_digest(spec: PipelineSpec) -> str:
    """Return the SHA-256 of all keys of a pipeline except its name and description."""
    document = as_document(spec)
    del document["name"], document["description"]
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def to_yaml(spec: PipelineSpec) -> str:
    return yaml.safe_dump(as_document(spec), sort_keys=False, allow_unicode=True, width=100)


def _read(source: str) -> tuple[str, str]:
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
        return str(source), content.decode("utf-8")
    except OSError as error:
        raise PipelineError(error.strerror or str(error), document=source) from error
    except UnicodeDecodeError as error:
        raise PipelineError(f"not UTF-8 text ({error.reason} at byte {error.start})", document=source) from error


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        document = _unshared(yaml.load(text, Loader=_Loader))  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise PipelineError(f"{at}{getattr(error, 'problem', None) or error}", document=where) from error
    except RecursionError as error:
        raise PipelineError("nested too deeply", document=where) from error
    if not isinstance(document, dict):
        raise PipelineError(f"a pipeline is a mapping of keys, not {type(document).__name__}", document=where)
    return document


def _unshared(value: Any) -> Any:
    """A copy in which two lists under one YAML anchor are two lists: setting one leaves the other."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _set(document: dict[str, Any], setting: str) -> None:
    """Apply one `path=value` (keys and list indices by dots; the value is YAML) to a document."""
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise PipelineError("expected path=value, e.g. validation.folds=3", document=f"--set {setting}")
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506
    except yaml.YAMLError as error:
        raise PipelineError("the value is not YAML", document=f"--set {setting}") from error
    at: Any = document
    *parents, last = path.split(".")
    for key in parents:
        _spell_out(at, key)
        at = at[_index(key, at, setting)] if isinstance(at, list) else at.setdefault(key, {})
        if not isinstance(at, dict | list):
            raise PipelineError(f"{key} has no keys to set (it is {at!r})", document=f"--set {setting}")
    if isinstance(at, list):
        at[_index(last, at, setting)] = value
    else:
        at[last] = value


def _spell_out(at: Any, key: str) -> None:
    """A plugin that is written as its name, or not at all, as a mapping that args can be set in."""
    if isinstance(at, dict) and key in ("extractor", "isolator"):
        default: PluginSpec = getattr(attrs.fields(PipelineSpec), key).default
        at.setdefault(key, default.name)
    found = at.get(key) if isinstance(at, dict) else None
    if isinstance(at, list) and key.isdigit() and int(key) < len(at):
        found = at[int(key)]
    if isinstance(found, str) and (isinstance(at, list) or key in ("extractor", "isolator")):
        at[int(key) if isinstance(at, list) else key] = {"name": found}


def _index(key: str, items: list[Any], setting: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise PipelineError(f"{key!r} is not an index of a list of {len(items)}", document=f"--set {setting}")
    return int(key)
