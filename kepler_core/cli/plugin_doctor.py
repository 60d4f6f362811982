"""`plugins doctor`: every plugin in a process of its own, and what is wrong with it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import attrs
import click

from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.cli.plugins import all_entries
from kepler_core.errors import EXIT_SOME_FAILED, PluginError, close_matches
from kepler_core.plugins import registry
from kepler_core.plugins.entries import OWN, PluginEntry, installed
from kepler_core.plugins.probe import TIMEOUT, Imported, import_entries


@attrs.frozen
class Finding:
    """One thing that is wrong with a plugin, or may be."""

    namespace: str
    plugin: str
    problem: str


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--strict", is_flag=True, help="Check kepler-core's own against their contracts, too; warnings fail.")
@click.option("--no-checks", is_flag=True, help="Import only.")
@click.option("--slow", type=float, default=5.0, show_default=True, help="Seconds of import that are worth a warning.")
@click.option("--timeout", type=float, default=TIMEOUT, show_default=True, help="Seconds for one module's plugins.")
@json_option
def doctor(names: tuple[str, ...], strict: bool, no_checks: bool, slow: float, timeout: float, as_json: bool) -> int:
    """Import every plugin (or those named) in a process of its own, and say what is wrong.

    Plugins of other distributions are checked against their contracts as by kepler_core.testing.
    The exit code is 3 if anything is wrong.
    """
    entries = _wanted(names)
    seen = dict(_imported(entries, strict, no_checks, timeout, as_json))
    problems, warnings = _refused(names), _undeclared(entries)
    for entry, found in seen.items():
        what, maybe = _verdict(found, slow)
        problems += [Finding(entry.namespace, entry.full_name, problem) for problem in what]
        warnings += [Finding(entry.namespace, entry.full_name, warning) for warning in maybe]
    problems += _clashes(entries)
    if as_json:
        print_json(
            {
                "checked": len(entries),
                "plugins": [_row(entry, found) for entry, found in seen.items()],
                "problems": [attrs.asdict(finding) for finding in problems],
                "warnings": [attrs.asdict(finding) for finding in warnings],
            }
        )
    else:
        _print(seen, problems, warnings)
    return EXIT_SOME_FAILED if problems or (strict and warnings) else 0


def _wanted(names: Sequence[str]) -> list[PluginEntry]:
    entries = [entry for entry in all_entries() if not entry.refused]
    if not names:
        return entries
    found = []
    for name in names:
        mine = [entry for entry in entries if name in _names(entry) and entry not in found]
        if not mine and not any(name in _names(e) for e in all_entries()):
            words = [word for e in entries for word in (e.name, e.distribution, *e.aliases)]
            raise PluginError(f"no plugin or distribution {name!r}; {close_matches(name, words)}")
        found += mine
    return found


def _names(entry: PluginEntry) -> tuple[str, ...]:
    """All that it can be called on the command line."""
    return (entry.name, entry.full_name, entry.distribution, *entry.aliases)


def _imported(
    entries: Sequence[PluginEntry], strict: bool, no_checks: bool, timeout: float, quiet: bool
) -> Iterator[tuple[PluginEntry, Imported]]:
    """What importing did, by plugin; the plugins of one module share a process."""
    modules: dict[tuple[str, str], list[PluginEntry]] = {}
    for entry in entries:
        modules.setdefault((entry.distribution, entry.target.rpartition(":")[0] or entry.target), []).append(entry)

    def look(mine: list[PluginEntry]) -> list[tuple[PluginEntry, Imported]]:
        checks = not no_checks and (strict or mine[0].distribution != OWN)
        return list(zip(mine, import_entries(mine, checks=checks, timeout=timeout), strict=True))

    seen: dict[PluginEntry, Imported] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads, ExitStack() as stack:
        looked: Iterable[list[tuple[PluginEntry, Imported]]] = threads.map(look, modules.values())
        if not quiet and sys.stderr.isatty():
            bar = click.progressbar(looked, length=len(modules), label="importing", file=sys.stderr)
            looked = stack.enter_context(bar)
        for some in looked:
            seen.update(some)
    yield from ((entry, seen[entry]) for entry in entries)


def _verdict(found: Imported, slow: float) -> tuple[list[str], list[str]]:
    """What is wrong, and what may be."""
    if found.problem:
        return [found.problem], []
    warnings = [f"importing it {effect}" for effect in found.side_effects]
    if found.seconds > slow:
        warnings.append(f"slow: importing it takes {found.seconds:.1f} s, more than {slow:g} s")
    return list(found.failures), [*warnings, *found.notes]


def _refused(names: Sequence[str]) -> list[Finding]:
    """Plugins that are not loaded because something is wrong with them, and files that are none."""
    return [
        Finding(entry.namespace, entry.full_name, entry.refused)
        for entry in all_entries()
        if entry.refused
        and not entry.turned_off
        and (not names or {entry.name, entry.full_name, entry.distribution} & set(names))
    ]


def _undeclared(entries: Sequence[PluginEntry]) -> list[Finding]:
    silent = dict.fromkeys(
        (entry.namespace, entry.full_name) for entry in entries if entry.distribution not in installed().apis
    )
    return [
        Finding(*who, "does not say which plugin API it was written for; declare kepler.plugin_api in its entry points")
        for who in silent
    ]


def _clashes(entries: Sequence[PluginEntry]) -> list[Finding]:
    """Names and aliases that several plugins claim, with how to write each of them."""
    findings = []
    for namespace, found in registry.REGISTRIES.items():
        mine = [entry for entry in entries if entry.namespace == namespace]
        for word in sorted({word for entry in mine for word in (entry.name, *entry.aliases)}):
            claims = [entry.full_name for entry in found.claims(word)]
            if len(claims) > 1:
                findings.append(Finding(namespace, word, f"stands for several plugins; write {' or '.join(claims)}"))
    return findings


def _row(entry: PluginEntry, found: Imported) -> dict[str, Any]:
    return {
        "namespace": entry.namespace,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "seconds": found.seconds,
        "megabytes": found.megabytes,
        "ok": not (found.problem or found.failures),
        "missing": found.missing,
    }


def _print(seen: dict[PluginEntry, Imported], problems: list[Finding], warnings: list[Finding]) -> None:
    bad = {(finding.namespace, finding.plugin) for finding in problems}
    maybe = {(finding.namespace, finding.plugin) for finding in warnings}

    def word(entry: PluginEntry) -> str:
        key = entry.namespace, entry.full_name
        return "wrong" if key in bad else "warning" if key in maybe else "ok"

    print_table(
        [
            (entry.namespace.removeprefix("kepler."), entry.full_name, f"{found.seconds:.2f}", f"{found.megabytes:.0f}",
             word(entry))
            for entry, found in seen.items()
        ],
        ("namespace", "plugin", "import s", "MB", ""),
    )  # fmt: skip
    click.echo()
    for title, findings in (("Wrong", problems), ("Warnings", warnings)):
        if findings:
            click.echo(f"{title}:")
            for finding in findings:
                click.echo(f"  {finding.plugin} ({finding.namespace}): {finding.problem}")
            click.echo()
    count = f"{len(seen)} plugin{'' if len(seen) == 1 else 's'}"
    if problems:
        wrong = len({(finding.namespace, finding.plugin) for finding in problems})
        click.echo(f"{count}, {wrong} of them or of their names wrong")
    else:
        click.echo(f"{count}, nothing is wrong")
