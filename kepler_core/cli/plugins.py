"""`plugins`: what is installed, what it takes, what is wrong with it."""

from __future__ import annotations

import inspect
from typing import Any

import attrs
import click

from kepler_core import registry
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import EXIT_SOME_FAILED, PluginError, close_matches
from kepler_core.hooks import GROUP, events, hook_entries


@click.group()
def plugins() -> None:
    """Trainers, isolators, extractors, energy sources, metric schemas and model formats."""


@plugins.command("list")
@click.option("--namespace", help="Only one kind, e.g. kepler.trainers or trainers.")
@json_option
def list_(namespace: str | None, as_json: bool) -> None:
    """All installed plugins, by namespace; imports none of them."""
    entries = [entry for found in registry.REGISTRIES.values() for entry in found.entries] + hook_entries()
    if namespace is not None:
        full = namespace if namespace.startswith("kepler.") else f"kepler.{namespace.replace('-', '_')}"
        known = [*registry.REGISTRIES, GROUP]
        if full not in known:
            raise PluginError(f"no namespace {namespace!r}; {close_matches(full, known)}")
        entries = [entry for entry in entries if entry.namespace == full]
    if as_json:
        print_json([attrs.asdict(entry) for entry in entries])
        return
    print_table(
        [
            (entry.namespace.removeprefix("kepler."), entry.name, ", ".join(entry.aliases), entry.distribution,
             entry.version)
            for entry in entries
        ],
        ("namespace", "name", "aliases", "distribution", "version"),
    )  # fmt: skip


@plugins.command()
@click.argument("name")
@json_option
def info(name: str, as_json: bool) -> None:
    """What the plugin NAME is, and the arguments that it takes in YAML."""
    entries = list(registry.entries_named(name))
    if not entries:
        known = [word for r in registry.REGISTRIES.values() for e in r.entries for word in (e.name, *e.aliases)]
        raise PluginError(f"no plugin {name!r}; {close_matches(name, known)}")
    described = [_described(entry) for entry in entries]
    if as_json:
        print_json(described[0] if len(described) == 1 else described)
        return
    for index, found in enumerate(described):
        if index:
            click.echo()
        _print(found)


def _described(entry: registry.PluginEntry) -> dict[str, Any]:
    plugin = registry.REGISTRIES[entry.namespace].load(entry)
    arguments = registry.arguments_of(plugin)
    return {
        **attrs.asdict(entry),
        "doc": inspect.getdoc(plugin) or "",
        "extra": plugin.extra,
        "plugin_api": list(plugin.plugin_api),
        "arguments": [attrs.asdict(argument) for argument in arguments],
    }


def _print(found: dict[str, Any]) -> None:
    click.echo(click.style(found["name"], bold=True) + f"  ({found['namespace']})")
    click.echo(f"from {found['distribution']} {found['version']}, {found['target']}")
    if found["aliases"]:
        click.echo(f"also called {', '.join(found['aliases'])}")
    if found["extra"]:
        click.echo(f"needs pip install 'kepler-core[{found['extra']}]'")
    click.echo(f"\n{found['doc']}")
    if found["arguments"]:
        click.echo()
        print_table(
            [(a["name"], a["type"], "(required)" if a["required"] else repr(a["default"])) for a in found["arguments"]],
            ("argument", "type", "default"),
        )
    kind = {"kepler.trainers": "abs_trainers", "kepler.isolators": "isolator", "kepler.extractors": "extractor"}
    if found["namespace"] in kind:
        key = kind[found["namespace"]]
        given = {a["name"]: a["default"] for a in found["arguments"] if not a["required"]}
        inner = ", ".join(f"{k}: {v}" for k, v in given.items())
        value = f"{{name: {found['name']}, args: {{{inner}}}}}" if given else found["name"]
        click.echo("\nIn a pipeline:\n")
        click.echo(f"  {key}:\n    - {value}" if key == "abs_trainers" else f"  {key}: {value}")


def _clashes(found: registry.Registry[Any]) -> dict[str, list[str]]:
    """Names and aliases that several distributions claim -> how to write each of them."""
    words = sorted({word for entry in found.entries for word in (entry.name, *entry.aliases)})
    claims = {word: [entry.full_name for entry in found.claims(word)] for word in words}
    return {word: who for word, who in claims.items() if len(who) > 1}


@plugins.command()
@json_option
def doctor(as_json: bool) -> int:
    """Import every plugin and say what is wrong; the exit code is 3 if anything is."""
    problems: list[dict[str, str]] = []
    checked = 0
    for found in registry.REGISTRIES.values():
        checked += len(found.entries)
        _, broken = found.load_all()
        problems += [{"plugin": b.entry.full_name, "namespace": b.entry.namespace, "problem": b.reason} for b in broken]
        for name, claims in _clashes(found).items():
            problems.append(
                {
                    "plugin": name,
                    "namespace": found.namespace,
                    "problem": f"stands for several plugins; write {' or '.join(claims)}",
                }
            )
    problems += [
        {"plugin": name, "namespace": "kepler.hooks", "problem": reason} for name, reason in events().broken.items()
    ]
    if as_json:
        print_json({"checked": checked, "problems": problems})
    elif problems:
        print_table(
            [(p["namespace"].removeprefix("kepler."), p["plugin"], p["problem"]) for p in problems],
            ("namespace", "plugin", "problem"),
        )
    else:
        click.echo(f"{checked} plugins, nothing is wrong")
    return EXIT_SOME_FAILED if problems else 0
