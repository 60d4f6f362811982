"""The commands `plugins …`, which list and describe the installed plugins and print their versions."""

from __future__ import annotations

import inspect
from typing import Any

import attrs
import click

from kepler_core.cli.examples import examples
from kepler_core.cli.lazy import LazyCommand, LazyGroup
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import PluginError, StoreError, close_matches
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import Argument, arguments_of
from kepler_core.plugins.entries import PluginEntry, installed_plugins
from kepler_core.plugins.hooks import GROUP, Hooks, hook_entries
from kepler_core.plugins.problems import BrokenPlugin
from kepler_core.urls import shown_location

_COMMANDS = {
    "doctor": LazyCommand(
        "kepler_core.cli.plugin_doctor:doctor",
        "Import all plugins, or only the NAMEs, in separate processes and report problems.",
    ),
    "new": LazyCommand(
        "kepler_core.cli.plugin_new:new",
        "Write a distribution with a plugin of the KIND, and with tests, a tox configuration and a CI workflow.",
    ),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def plugins() -> None:
    """List, describe, check and create plugins, such as trainers, isolators and metric schemas.

    \b
    Settings, from the environment or the configuration folder:
      KEPLER_DISABLE_PLUGIN_AUTOLOAD  if 1, load third-party plugins only if KEPLER_PLUGINS_ALLOW names them
      KEPLER_PLUGINS_ALLOW            third-party plugins that may be loaded: distributions or distribution:name
      KEPLER_PLUGINS_DENY             plugins that are never loaded: distributions or distribution:name
    """


def all_entries() -> list[PluginEntry]:
    """Return the entries of all installed plugins and listeners, ordered by namespace, refused plugins included."""
    entries = [entry for namespace in registry.REGISTRIES.values() for entry in namespace.installed]
    return [*entries, *hook_entries()]


def status(entry: PluginEntry) -> str:
    """Return the reason why a plugin is refused, or the names of other plugins with the same name.

    Returns "" if the plugin is not refused and its name is unique. Imports no plugin.
    """
    if entry.refusal is not None:
        return str(entry.refusal)
    if entry.namespace not in registry.REGISTRIES:
        return ""
    claims = registry.REGISTRIES[entry.namespace].claims(entry.name)
    others = [other.full_name for other in claims if other != entry]
    return f"clashes with {' and '.join(others)}: write {entry.full_name}" if others else ""


@plugins.command("list", epilog=examples("plugins list", "plugins list --json"))
@click.option("--namespace", help="List only the plugins of one namespace, e.g. kepler.trainers or trainers.")
@json_option
def list_(namespace: str | None, as_json: bool) -> None:
    """List all installed plugins, sorted by namespace, without importing them."""
    entries = all_entries()
    if namespace is not None:
        full = namespace if namespace.startswith("kepler.") else f"kepler.{namespace.replace('-', '_')}"
        namespaces = [*registry.REGISTRIES, GROUP]
        if full not in namespaces:
            raise PluginError(f"no namespace {namespace!r}; {close_matches(full, namespaces)}")
        entries = [entry for entry in entries if entry.namespace == full]
    if as_json:
        print_json([{**_metadata(entry), "status": status(entry) or "ok"} for entry in entries])
        return
    print_table(
        [
            (entry.namespace.removeprefix("kepler."), entry.name, ", ".join(entry.aliases), entry.distribution,
             entry.version, status(entry) or "ok")
            for entry in entries
        ],
        ("namespace", "name", "aliases", "distribution", "version", "status"),
    )  # fmt: skip


@plugins.command(epilog=examples("plugins info GradientBoostingRegressorTrainer", "plugins info min"))
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> None:
    """Describe the plugin NAME and the arguments that a pipeline file can pass to it."""
    listeners = [entry for entry in hook_entries() if name in (entry.name, entry.full_name)]
    entries = [*registry.entries_named(name), *listeners]
    if not entries:
        words = [word for entry in all_entries() for word in (entry.name, *entry.aliases)]
        raise PluginError(f"no plugin {name!r}; {close_matches(name, words)}")
    descriptions = [
        _describe_listener(entry) if entry.namespace == GROUP else _describe_plugin(entry) for entry in entries
    ]
    if as_json:
        print_json(descriptions[0] if len(descriptions) == 1 else descriptions)
        return
    for index, description in enumerate(descriptions):
        if index:
            click.echo()
        _print(description)


@plugins.command(epilog=examples("plugins freeze mine -s models > requirements.txt"))
@click.argument("pipeline", required=False)
@click.option("-s", "--store", metavar="DIR|URL", help="The model store that holds the PIPELINE.")
@json_option
def freeze(pipeline: str | None, store: str | None, as_json: bool) -> None:
    """Print the distributions of the installed plugins as pip requirements.

    With a PIPELINE and its --store, print the distributions of the plugins that the pipeline was trained with.
    """
    from kepler_core.pipeline.plugins import described, requirements

    if (pipeline is None) != (store is None):
        raise click.UsageError("the argument PIPELINE and the option --store must be used together")
    if pipeline is not None and store is not None:
        from kepler_core.models.power_model import METADATA_FILE
        from kepler_core.store import open_store

        used = open_store(store).snapshot(pipeline).read_json(METADATA_FILE).get("plugins")
        if not isinstance(used, list):
            raise StoreError(
                f"{shown_location(store)}: the metadata of {pipeline!r} does not list the plugins "
                "that it was trained with"
            )
    else:
        used = [described(entry) for entry in all_entries() if entry.refusal is None]
    if as_json:
        print_json(used)
        return
    for line in requirements(used):
        click.echo(line)


def _metadata(entry: PluginEntry) -> dict[str, Any]:
    metadata = attrs.asdict(entry)
    del metadata["refusal"]
    return {**metadata, "refused": str(entry.refusal or "")}


def _describe_plugin(entry: PluginEntry) -> dict[str, Any]:
    _check_not_refused(entry)
    plugin = registry.REGISTRIES[entry.namespace].load(entry)
    arguments = arguments_of(plugin)
    return {
        **_metadata(entry),
        "doc": inspect.getdoc(plugin) or "",
        "extra": plugin.extra,
        "plugin_api": _plugin_apis(entry),
        "arguments": [attrs.asdict(argument) for argument in arguments],
        "example": _example(entry, arguments),
    }


def _describe_listener(entry: PluginEntry) -> dict[str, Any]:
    _check_not_refused(entry)
    hooks = Hooks(only=entry.full_name)
    for reason in hooks.broken.values():
        raise PluginError(str(BrokenPlugin(entry, reason)))
    return {
        **_metadata(entry),
        "doc": inspect.getdoc(hooks.manager.get_plugin(entry.full_name)) or "",
        "extra": None,
        "plugin_api": _plugin_apis(entry),
        "arguments": [],
        "hooks": hooks.hooks_of(entry.full_name),
        "example": "",
    }


def _check_not_refused(entry: PluginEntry) -> None:
    if entry.refusal is not None:
        raise PluginError(str(BrokenPlugin(entry, str(entry.refusal))))


def _plugin_apis(entry: PluginEntry) -> list[str]:
    return list(installed_plugins().plugin_apis.get(entry.distribution, ()))


def _example(entry: PluginEntry, arguments: list[Argument]) -> str:
    """Return an example of pipeline YAML that names the plugin and its default arguments.

    Returns "" if pipeline files do not name plugins of this namespace.
    """
    keys = {"kepler.trainers": "abs_trainers", "kepler.isolators": "isolator", "kepler.extractors": "extractor"}
    if entry.namespace == "kepler.energy_sources":
        return f"energy_sources: [{entry.name}]"
    if entry.namespace not in keys:
        return ""
    from kepler_core.yaml_documents import encode_yaml

    key = keys[entry.namespace]
    values = [f"{a.name}: {'…' if a.required else encode_yaml(a.default, flow=True)}" for a in arguments]
    plugin = f"{{name: {entry.name}, args: {{{', '.join(values)}}}}}" if values else entry.name
    return f"{key}:\n  - {plugin}" if key == "abs_trainers" else f"{key}: {plugin}"


def _print(description: dict[str, Any]) -> None:
    click.echo(click.style(description["name"], bold=True) + f"  ({description['namespace']})")
    click.echo(
        f"from {description['distribution']} {description['version']}, {description['target']}".replace(" ,", ",")
    )
    if description["aliases"]:
        click.echo(f"also called {', '.join(description['aliases'])}")
    if description["plugin_api"]:
        click.echo(f"written for plugin API {', '.join(description['plugin_api'])}")
    if description["extra"]:
        click.echo(f"needs pip install 'kepler-core[{description['extra']}]'")
    if description["doc"]:
        click.echo(f"\n{description['doc']}")
    if description.get("hooks"):
        click.echo()
        print_table(
            [(hook, "strict" if strict else "") for hook, strict in description["hooks"].items()], ("listens to", "")
        )
    if description["arguments"]:
        click.echo()
        print_table(
            [
                (
                    argument["name"],
                    argument["type"],
                    "(required)" if argument["required"] else repr(argument["default"]),
                )
                for argument in description["arguments"]
            ],
            ("argument", "type", "default"),
        )
    if description["example"]:
        click.echo("\nIn a pipeline:\n")
        click.echo("\n".join("  " + line for line in description["example"].splitlines()))
