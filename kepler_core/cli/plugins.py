"""`plugins`: what is installed, what it takes, what is wrong with it, and how to start one."""

from __future__ import annotations

import inspect
from typing import Any

import attrs
import click

from kepler_core.cli.lazy import LazyGroup
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import PluginError, StoreError, close_matches
from kepler_core.plugins import registry
from kepler_core.plugins.entries import PluginEntry, installed
from kepler_core.plugins.hooks import GROUP, Events, hook_entries

_COMMANDS = {
    "doctor": "kepler_core.cli.plugin_doctor:doctor",
    "new": "kepler_core.cli.plugin_new:new",
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def plugins() -> None:
    """Trainers, isolators, extractors, energy sources, metric schemas, model formats and hooks.

    \b
    Keys that are read from the environment or the configuration folder:
      KEPLER_DISABLE_PLUGIN_AUTOLOAD  1: only kepler-core's own plugins, and those that are allowed
      KEPLER_PLUGINS_ALLOW            only these distributions (or distribution:name), besides kepler-core
      KEPLER_PLUGINS_DENY             not these
      KEPLER_PLUGIN_DIR               a folder whose *.py files are plugins, too
    """


def all_entries() -> list[PluginEntry]:
    """All that are installed, refused ones included, by namespace."""
    entries = [entry for found in registry.REGISTRIES.values() for entry in found.installed]
    return [*entries, *hook_entries(), *installed().unreadable]


def status(entry: PluginEntry) -> str:
    """What can be said of a plugin without importing it; empty if nothing is against it."""
    if entry.refused:
        return entry.refused
    if entry.namespace not in registry.REGISTRIES:
        return ""
    found = registry.REGISTRIES[entry.namespace]
    others = [f"{other.full_name}" for other in found.claims(entry.name) if other != entry]
    return f"clashes with {' and '.join(others)}: write {entry.full_name}" if others else ""


@plugins.command("list")
@click.option("--namespace", help="Only one kind, e.g. kepler.trainers or trainers.")
@json_option
def list_(namespace: str | None, as_json: bool) -> None:
    """All installed plugins, by namespace; imports none of them."""
    entries = all_entries()
    if namespace is not None:
        full = namespace if namespace.startswith("kepler.") else f"kepler.{namespace.replace('-', '_')}"
        known = [*registry.REGISTRIES, GROUP]
        if full not in known:
            raise PluginError(f"no namespace {namespace!r}; {close_matches(full, known)}")
        entries = [entry for entry in entries if entry.namespace == full]
    if as_json:
        print_json([{**attrs.asdict(entry), "status": status(entry) or "ok"} for entry in entries])
        return
    print_table(
        [
            (entry.namespace.removeprefix("kepler."), entry.name, ", ".join(entry.aliases), entry.distribution,
             entry.version, status(entry) or "ok")
            for entry in entries
        ],
        ("namespace", "name", "aliases", "distribution", "version", "status"),
    )  # fmt: skip


@plugins.command()
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> None:
    """What the plugin NAME is, and the arguments that it takes in YAML."""
    hooks = [entry for entry in hook_entries() if name in (entry.name, entry.full_name)]
    entries = [*registry.entries_named(name), *hooks]
    if not entries:
        known = [word for entry in all_entries() for word in (entry.name, *entry.aliases)]
        raise PluginError(f"no plugin {name!r}; {close_matches(name, known)}")
    described = [_hook(entry) if entry.namespace == GROUP else _described(entry) for entry in entries]
    if as_json:
        print_json(described[0] if len(described) == 1 else described)
        return
    for index, found in enumerate(described):
        if index:
            click.echo()
        _print(found)


def _refuse(entry: PluginEntry) -> None:
    if entry.refused:
        raise PluginError(str(registry.BrokenPlugin(entry, entry.refused)))


def _apis(entry: PluginEntry) -> list[str]:
    return list(installed().apis.get(entry.distribution, ()))


def _described(entry: PluginEntry) -> dict[str, Any]:
    _refuse(entry)
    plugin = registry.REGISTRIES[entry.namespace].load(entry)
    arguments = registry.arguments_of(plugin)
    return {
        **attrs.asdict(entry),
        "doc": inspect.getdoc(plugin) or "",
        "extra": plugin.extra,
        "plugin_api": _apis(entry),
        "arguments": [attrs.asdict(argument) for argument in arguments],
        "example": _example(entry, arguments),
    }


def _hook(entry: PluginEntry) -> dict[str, Any]:
    _refuse(entry)
    found = Events(only=entry.full_name)
    for reason in found.broken.values():
        raise PluginError(str(registry.BrokenPlugin(entry, reason)))
    listener = found.manager.get_plugin(entry.full_name)
    return {
        **attrs.asdict(entry),
        "doc": inspect.getdoc(listener) or "",
        "extra": None,
        "plugin_api": _apis(entry),
        "arguments": [],
        "events": found.events_of(entry.full_name),
        "example": "",
    }


def _example(entry: PluginEntry, arguments: list[registry.Argument]) -> str:
    """YAML that names the plugin, with its defaults; empty for what no pipeline names."""
    kinds = {"kepler.trainers": "abs_trainers", "kepler.isolators": "isolator", "kepler.extractors": "extractor"}
    if entry.namespace == "kepler.energy_sources":
        return f"energy_sources: [{entry.name}]"
    if entry.namespace not in kinds:
        return ""
    key = kinds[entry.namespace]
    given = [f"{a.name}: {'…' if a.required else _yaml(a.default)}" for a in arguments]
    value = f"{{name: {entry.name}, args: {{{', '.join(given)}}}}}" if given else entry.name
    return f"{key}:\n  - {value}" if key == "abs_trainers" else f"{key}: {value}"


def _yaml(value: Any) -> str:
    import yaml

    text = yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _print(found: dict[str, Any]) -> None:
    click.echo(click.style(found["name"], bold=True) + f"  ({found['namespace']})")
    click.echo(f"from {found['distribution']} {found['version']}, {found['target']}".replace(" ,", ","))
    if found["aliases"]:
        click.echo(f"also called {', '.join(found['aliases'])}")
    if found["plugin_api"]:
        click.echo(f"written for plugin API {', '.join(found['plugin_api'])}")
    if found["extra"]:
        click.echo(f"needs pip install 'kepler-core[{found['extra']}]'")
    if found["doc"]:
        click.echo(f"\n{found['doc']}")
    if found.get("events"):
        click.echo()
        print_table(
            [(event, "strict" if strict else "") for event, strict in found["events"].items()], ("listens to", "")
        )
    if found["arguments"]:
        click.echo()
        print_table(
            [(a["name"], a["type"], "(required)" if a["required"] else repr(a["default"])) for a in found["arguments"]],
            ("argument", "type", "default"),
        )
    if found["example"]:
        click.echo("\nIn a pipeline:\n")
        click.echo("\n".join("  " + line for line in found["example"].splitlines()))


@plugins.command()
@click.argument("pipeline", required=False)
@click.option("-s", "--store", metavar="DIR|URL", help="The model store of the pipeline.")
@json_option
def freeze(pipeline: str | None, store: str | None, as_json: bool) -> None:
    """The distributions of the plugins that are installed, as pip requirements.

    With a PIPELINE of a --store: those that it was trained with.
    """
    from kepler_core.pipeline.plugins import described, requirements

    if (pipeline is None) != (store is None):
        raise click.UsageError("a pipeline goes with --store, and --store with a pipeline")
    if pipeline is not None and store is not None:
        from kepler_core.models.power_model import METADATA_FILE
        from kepler_core.store import open_store

        found = open_store(store).snapshot(pipeline).read_json(METADATA_FILE).get("plugins")
        if not isinstance(found, list):
            raise StoreError(f"{store}: {pipeline!r} does not say which plugins it was trained with")
    else:
        found = [described(entry) for entry in all_entries() if not entry.refused]
    if as_json:
        print_json(found)
        return
    for line in requirements(found):
        click.echo(line)
