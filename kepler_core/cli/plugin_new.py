"""`plugins new`: a distribution with a plugin, ready to be tested and published."""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from string import Template

import attrs
import click

from kepler_core.contracts import PLUGIN_API
from kepler_core.errors import UsageError
from kepler_core.plugins import registry


@attrs.frozen
class Kind:
    """What is different between the kinds of plugins."""

    group: str
    what: str
    suffix: str
    """Of the class; empty for a module."""
    by_class: bool = False
    """Whether users write the class's name (and an alias)."""


KINDS = {
    "trainer": Kind("kepler.trainers", "A trainer", "Trainer", by_class=True),
    "isolator": Kind("kepler.isolators", "An isolator", "Isolator", by_class=True),
    "extractor": Kind("kepler.extractors", "An extractor", "Extractor", by_class=True),
    "energy-source": Kind("kepler.energy_sources", "An energy source", "Source"),
    "metric-schema": Kind("kepler.metric_schemas", "A metric schema", "Schema"),
    "hook": Kind("kepler.hooks", "A listener", ""),
}

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_USAGE = {
    "trainer": "In a pipeline: `abs_trainers: [{name}]`. Once they are stored, its models do not need it.",
    "isolator": "In a pipeline: `isolator: {name}`.",
    "extractor": "In a pipeline: `extractor: {name}`.",
    "energy-source": "In a pipeline: `energy_sources: [{name}]`.",
    "metric-schema": "Recordings in its spelling are read; `kepler-model validate FILE` shows what is found.",
    "hook": "It listens wherever it is installed; `kepler-model train --trace-hooks …` shows its calls.",
}


@click.command()
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.argument("name")
@click.option("-o", "--output", metavar="DIR", help="Where to make it.  [default: kepler-KIND-NAME]")
def new(kind: str, name: str, output: str | None) -> None:
    """Make a distribution with a plugin of a KIND, its tests, tox and CI, that passes as it is.

    NAME is what users will write: small letters, digits and dashes.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(f"{name!r} is no name for a plugin: small letters, digits and dashes, e.g. my-{kind}")
    folder = Path(output or f"kepler-{kind}-{name}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already")
    _refuse_taken(kind, name)
    files = distribution_files(kind, name)
    for path, content in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content, encoding="utf-8")
        click.echo(target)
    module = next(path for path in files if path.endswith("__init__.py"))
    click.echo(
        f"\nNext:\n  cd {folder}\n  pip install -e '.[test]'\n  pytest\n  kepler-model plugins info {name}\n"
        f"The plugin is in {module}."
    )


def _refuse_taken(kind: str, name: str) -> None:
    """`UsageError` if a plugin of another distribution has one of the names."""
    if KINDS[kind].group not in registry.REGISTRIES:
        return  # listeners are told apart by their distributions
    found = registry.REGISTRIES[KINDS[kind].group]
    words = [_class_name(kind, name), name] if KINDS[kind].by_class else [name]
    for word in words:
        for entry in found.claims(word):
            if entry.distribution != f"kepler-{kind}-{name}":
                raise UsageError(f"{entry.full_name} is called {word!r} already: users could not write the bare name")


def _class_name(kind: str, name: str) -> str:
    return "".join(word.capitalize() for word in name.split("-")) + KINDS[kind].suffix


def distribution_files(kind: str, name: str) -> dict[str, str]:
    """The files of a new distribution, by path."""
    found = KINDS[kind]
    distribution = f"kepler-{kind}-{name}"
    module = distribution.replace("-", "_")
    cls = _class_name(kind, name)
    values = {
        "api": ".".join(map(str, PLUGIN_API)),
        "cls": cls,
        "description": f"{found.what} for Kepler Core: {name}",
        "distribution": distribution,
        "entry_points": _entry_points(found, name, module, cls),
        "module": module,
        "name": name,
        "prefix": name.replace("-", "_"),
        "usage": _USAGE[kind].format(name=name),
        "user_name": name,
    }

    def filled(template: str) -> str:
        text = (importlib.resources.files("kepler_core.cli") / "templates" / template).read_text("utf-8")
        return Template(text).substitute(values)

    return {
        "pyproject.toml": filled("common/pyproject.toml.tmpl"),
        "README.md": filled("common/README.md.tmpl"),
        "tox.ini": filled("common/tox.ini.tmpl"),
        ".gitignore": filled("common/gitignore.tmpl"),
        ".github/workflows/ci.yml": filled("common/ci.yml.tmpl"),
        f"{module}/__init__.py": filled(f"{kind}/module.py.tmpl"),
        f"tests/test_{name.replace('-', '_')}.py": filled(f"{kind}/test.py.tmpl"),
    }


def _entry_points(kind: Kind, name: str, module: str, cls: str) -> str:
    target = f"{module}:{cls}" if kind.suffix else module
    lines = ["# The left side is the name that users write.", f'[project.entry-points."{kind.group}"]']
    if not kind.by_class:
        return "\n".join([*lines, f'{name} = "{target}"'])
    aliases = ["", "# A second name for the same class.", f'[project.entry-points."{kind.group}.aliases"]']
    return "\n".join([*lines, f'{cls} = "{target}"', *aliases, f'{name} = "{target}"'])
