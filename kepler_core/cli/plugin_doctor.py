"""The command `plugins doctor`, which imports plugins in separate processes and reports problems."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import attrs
import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.cli.plugin_probe import probe_plugins
from kepler_core.cli.plugins import all_entries
from kepler_core.errors import EXIT_SOME_FAILED, PluginError, close_matches
from kepler_core.plugins import registry
from kepler_core.plugins.entries import PluginEntry, installed_plugins
from kepler_core.plugins.probe import TIMEOUT_SECONDS, ImportResult
from kepler_core.plugins.settings import OWN


@attrs.frozen
class Finding:
    """A problem with a plugin, or a warning about it."""

    namespace: str
    plugin: str
    problem: str


@click.command(epilog=examples("plugins doctor", "plugins doctor huber"))
@click.argument("names", nargs=-1, metavar="[NAME…]")
@click.option("--strict", is_flag=True, help="Also check kepler-core's own plugins, and fail on warnings.")
@click.option("--no-checks", is_flag=True, help="Only import the plugins; do not check them against their contracts.")
@click.option(
    "--slow",
    type=float,
    default=5.0,
    show_default=True,
    help="Warn if the import of a plugin takes more than this number of seconds.",
)
@click.option(
    "--timeout",
    type=float,
    default=TIMEOUT_SECONDS,
    show_default=True,
    help="Time limit in seconds for importing and checking the plugins of one module.",
)
@json_option
def doctor(names: tuple[str, ...], strict: bool, no_checks: bool, slow: float, timeout: float, as_json: bool) -> int:
    """Import all plugins, or only the NAMEs, in separate processes and report problems.

    Third-party plugins are also checked against their contracts, with the checks of kepler_core.testing.
    The exit code is 3 if there are problems, or, with --strict, warnings.
    """
    entries = _selected(names)
    results = _probe_all(entries, strict, no_checks, timeout, show_progress=not as_json and sys.stderr.isatty())
    problems, warnings = [*_unreadable(names), *_incompatible(names)], _undeclared(entries)
    for entry, result in results.items():
        problem_texts, warning_texts = _judge(result, slow)
        problems += [Finding(entry.namespace, entry.full_name, text) for text in problem_texts]
        warnings += [Finding(entry.namespace, entry.full_name, text) for text in warning_texts]
    problems += _clashes(entries)
    if as_json:
        print_json(
            {
                "checked": len(entries),
                "plugins": [_row(entry, result) for entry, result in results.items()],
                "problems": [attrs.asdict(finding) for finding in problems],
                "warnings": [attrs.asdict(finding) for finding in warnings],
            }
        )
    else:
        _print(results, problems, warnings)
    return EXIT_SOME_FAILED if problems or (strict and warnings) else 0


def _selected(names: Sequence[str]) -> list[PluginEntry]:
    """Return the plugins that may be loaded. If `names` is not empty, return only those with one of these names."""
    entries = [entry for entry in all_entries() if entry.refusal is None]
    if not names:
        return entries
    selected: list[PluginEntry] = []
    for name in names:
        named = [entry for entry in entries if name in _names(entry) and entry not in selected]
        if name in installed_plugins().unreadable:
            continue
        if not named and not any(name in _names(entry) for entry in all_entries()):
            words = [word for entry in entries for word in (entry.name, entry.distribution, *entry.aliases)]
            raise PluginError(f"no plugin or distribution {name!r}; {close_matches(name, words)}")
        selected += named
    return selected


def _names(entry: PluginEntry) -> tuple[str, ...]:
    """Return the names by which users can select a plugin on the command line."""
    return (entry.name, entry.full_name, entry.distribution, *entry.aliases)


def _probe_all(
    entries: Sequence[PluginEntry], strict: bool, no_checks: bool, timeout: float, *, show_progress: bool
) -> dict[PluginEntry, ImportResult]:
    """Import plugins in separate processes, one process per module. Return a dictionary from plugins to results."""
    modules: dict[tuple[str, str], list[PluginEntry]] = {}
    for entry in entries:
        module = entry.target.rpartition(":")[0] or entry.target
        modules.setdefault((entry.distribution, module), []).append(entry)

    def probe(of_module: list[PluginEntry]) -> list[tuple[PluginEntry, ImportResult]]:
        checks = not no_checks and (strict or of_module[0].distribution != OWN)
        return list(zip(of_module, probe_plugins(of_module, checks=checks, timeout=timeout), strict=True))

    results: dict[PluginEntry, ImportResult] = {}
    with ThreadPoolExecutor(os.cpu_count() or 1) as threads, ExitStack() as stack:
        probed: Iterable[list[tuple[PluginEntry, ImportResult]]] = threads.map(probe, modules.values())
        if show_progress:
            bar = click.progressbar(probed, length=len(modules), label="importing", file=sys.stderr)
            probed = stack.enter_context(bar)
        for pairs in probed:
            results.update(pairs)
    return {entry: results[entry] for entry in entries}


def _judge(result: ImportResult, slow: float) -> tuple[list[str], list[str]]:
    """Return the problems and the warnings that follow from the result of importing one plugin."""
    if result.problem:
        return [result.problem], []
    warnings = [f"importing it {effect}" for effect in result.side_effects]
    if result.seconds > slow:
        warnings.append(f"slow: importing it takes {result.seconds:.1f} s, more than {slow:g} s")
    return list(result.failures), [*warnings, *result.notes]


def _unreadable(names: Sequence[str]) -> list[Finding]:
    """Return a finding for each distribution whose entry points cannot be read.

    Without `names`, all distributions are examined.
    """
    return [
        Finding("entry points", distribution, reason)
        for distribution, reason in sorted(installed_plugins().unreadable.items())
        if not names or distribution in names
    ]


def _incompatible(names: Sequence[str]) -> list[Finding]:
    """Return a finding for each plugin that was written for an unsupported version of the plugin API.

    Without `names`, all plugins are examined.
    """
    return [
        Finding(entry.namespace, entry.full_name, str(entry.refusal))
        for entry in all_entries()
        if entry.refusal is not None
        and not entry.turned_off
        and (not names or {entry.name, entry.full_name, entry.distribution} & set(names))
    ]


def _undeclared(entries: Sequence[PluginEntry]) -> list[Finding]:
    """Return a warning for each plugin whose distribution declares no plugin API version."""
    declared = installed_plugins().plugin_apis
    text = "does not say which plugin API it was written for; declare kepler.plugin_api in its entry points"
    undeclared = dict.fromkeys(
        (entry.namespace, entry.full_name) for entry in entries if entry.distribution not in declared
    )
    return [Finding(namespace, full_name, text) for namespace, full_name in undeclared]


def _clashes(entries: Sequence[PluginEntry]) -> list[Finding]:
    """Return a finding for each name or alias that several plugins of one namespace share."""
    findings = []
    for namespace, plugins in registry.REGISTRIES.items():
        of_namespace = [entry for entry in entries if entry.namespace == namespace]
        for word in sorted({word for entry in of_namespace for word in (entry.name, *entry.aliases)}):
            claims = [entry.full_name for entry in plugins.claims(word)]
            if len(claims) > 1:
                findings.append(Finding(namespace, word, f"stands for several plugins; write {' or '.join(claims)}"))
    return findings


def _row(entry: PluginEntry, result: ImportResult) -> dict[str, Any]:
    return {
        "namespace": entry.namespace,
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "seconds": result.seconds,
        "megabytes": result.megabytes,
        "ok": not (result.problem or result.failures),
        "missing": result.missing,
    }


def _print(results: dict[PluginEntry, ImportResult], problems: list[Finding], warnings: list[Finding]) -> None:
    wrong = {(finding.namespace, finding.plugin) for finding in problems}
    warned = {(finding.namespace, finding.plugin) for finding in warnings}

    def verdict(entry: PluginEntry) -> str:
        key = entry.namespace, entry.full_name
        return "wrong" if key in wrong else "warning" if key in warned else "ok"

    print_table(
        [
            (entry.namespace.removeprefix("kepler."), entry.full_name, f"{result.seconds:.2f}",
             f"{result.megabytes:.0f}", verdict(entry))
            for entry, result in results.items()
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
    count = f"{len(results)} plugin{'' if len(results) == 1 else 's'}"
    if problems:
        click.echo(f"{count} checked; plugins, names or distributions with problems: {len(wrong)}")
    else:
        click.echo(f"{count}, nothing is wrong")
