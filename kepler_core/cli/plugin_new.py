"""The command `plugins new`, which writes a new distribution with a plugin, its tests, tox and CI."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from string import Template

import attrs
import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json
from kepler_core.contracts import PLUGIN_API
from kepler_core.errors import UsageError
from kepler_core.plugins import registry


@attrs.frozen
class Kind:
    """What `plugins new` needs to know about one kind of plugin."""

    group: str
    """The entry-point group of plugins of this kind."""
    noun: str
    """Name of the kind with an article, e.g. "An isolator", for the description of the distribution."""
    class_suffix: str
    """Last word in the name of the plugin's class, e.g. "Trainer"; "" if the plugin is a module without a class."""
    named_by_class: bool = False
    """True: the plugin's name is the name of its class, and the argument NAME of `plugins new` becomes an alias.
    False: the plugin's name is NAME."""


KINDS = {
    "trainer": Kind("kepler.trainers", "A trainer", "Trainer", named_by_class=True),
    "isolator": Kind("kepler.isolators", "An isolator", "Isolator", named_by_class=True),
    "extractor": Kind("kepler.extractors", "An extractor", "Extractor", named_by_class=True),
    "energy-source": Kind("kepler.energy_sources", "An energy source", "Source"),
    "metric-schema": Kind("kepler.metric_schemas", "A metric schema", "Schema"),
    "hook": Kind("kepler.hooks", "A listener", ""),
}

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_USAGE = {
    "trainer": "In a pipeline: `abs_trainers: [{name}]`. Stored models do not need the trainer.",
    "isolator": "In a pipeline: `isolator: {name}`.",
    "extractor": "In a pipeline: `extractor: {name}`.",
    "energy-source": "In a pipeline: `energy_sources: [{name}]`.",
    "metric-schema": "Kepler Core reads the exporter's recordings with it; try `kepler-model validate FILE`.",
    "hook": "Kepler Core calls it once it is installed; `kepler-model train --trace-hooks …` shows its calls.",
}


@click.command(epilog=examples("plugins new trainer median", "plugins new metric-schema wattson -o wattson"))
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
@click.option("-o", "--output", metavar="DIR", help="Folder for the new distribution.  [default: kepler-KIND-NAME]")
@json_option
def new(kind: str, name: str, output: str | None, as_json: bool) -> None:
    """Write a distribution with a plugin of the KIND, and with tests, a tox configuration and a CI workflow.

    The plugin works and passes its tests; replace its code with your own. NAME is the name by which users
    will refer to the plugin: small letters, digits and dashes.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is not a valid plugin name; use small letters, digits and dashes, e.g. my-{kind}")
    folder = Path(output or f"kepler-{kind}-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} already exists and is not an empty folder")
    _refuse_taken(kind, name)
    files = distribution_files(kind, name)
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
    if as_json:
        print_json({"folder": str(folder), "files": list(files)})
        return
    for path in files:
        click.echo(folder / path)
    module = next(path for path in files if path.endswith("__init__.py"))
    click.echo(
        f"\nNext:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n  kepler-model plugins info {name}\n"
        f"The plugin is in {module}."
    )


def _refuse_taken(kind: str, name: str) -> None:
    """Raise `UsageError` if a plugin of another distribution already has the new plugin's name or alias."""
    if KINDS[kind].group not in registry.REGISTRIES:
        return  # listeners of different distributions may have the same name
    plugins = registry.REGISTRIES[KINDS[kind].group]
    names = [_class_name(kind, name), name] if KINDS[kind].named_by_class else [name]
    for name_or_alias in names:
        for entry in plugins.claims(name_or_alias):
            if entry.distribution != f"kepler-{kind}-{name}":
                raise UsageError(
                    f"{entry.full_name} already has the name {name_or_alias!r}, so this name alone would not "
                    f"choose the new plugin; use another name"
                )


def _class_name(kind: str, name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-")) + KINDS[kind].class_suffix


def distribution_files(kind: str, name: str) -> dict[str, str]:
    """Return the files of a new distribution as a dictionary from paths to contents."""
    distribution = f"kepler-{kind}-{name}"
    module = distribution.replace("-", "_")
    class_name = _class_name(kind, name)
    values = {
        "api": ".".join(map(str, PLUGIN_API)),
        "cls": class_name,
        "description": f"{KINDS[kind].noun} for Kepler Core: {name}",
        "distribution": distribution,
        "entry_points": _entry_points(KINDS[kind], name, module, class_name),
        "module": module,
        "name": name,
        "prefix": name.replace("-", "_"),
        "usage": _USAGE[kind].format(name=name),
        "user_name": name,
    }

    def fill(template: str) -> str:
        text = (importlib.resources.files("kepler_core.cli") / "templates" / template).read_text("utf-8")
        return Template(text).substitute(values)

    return {
        "pyproject.toml": fill("common/pyproject.toml.tmpl"),
        "README.md": fill("common/README.md.tmpl"),
        "tox.ini": fill("common/tox.ini.tmpl"),
        ".gitignore": fill("common/gitignore.tmpl"),
        ".github/workflows/ci.yml": fill("common/ci.yml.tmpl"),
        f"{module}/__init__.py": fill(f"{kind}/module.py.tmpl"),
        f"tests/test_{name.replace('-', '_')}.py": fill(f"{kind}/test.py.tmpl"),
    }


def _entry_points(kind: Kind, name: str, module: str, class_name: str) -> str:
    target = f"{module}:{class_name}" if kind.class_suffix else module
    lines = ["# The left side is the name that users write.", f'[project.entry-points."{kind.group}"]']
    if not kind.named_by_class:
        return "\n".join([*lines, f'{name} = "{target}"'])
    aliases = ["", "# A second name for the same class.", f'[project.entry-points."{kind.group}.aliases"]']
    return "\n".join([*lines, f'{class_name} = "{target}"', *aliases, f'{name} = "{target}"'])
