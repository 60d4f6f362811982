"""`store`: commands that list, check, import, export and roll back the pipelines of a model store."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.atomic_files import whole_file
from kepler_core.cli.inputs import store_option
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import StoreError, UsageError

if TYPE_CHECKING:
    from kepler_core.store import Snapshot, Store

_UPDATED = ("last_update_time", "export_time", "init_time")


@click.group()
def store() -> None:
    """List, check, move and roll back the pipelines of a model store."""


@store.command("list")
@store_option()
@json_option
def list_(store: str, as_json: bool) -> None:
    """List the pipelines of a store. A pipeline that cannot be read is listed with the reason."""
    opened = _open(store)
    summaries = [{"pipeline": name, **_summary(partial(opened.snapshot, name))} for name in opened.pipelines()]
    if as_json:
        print_json(summaries)
        return
    if not summaries:
        click.echo(f"{store}: no pipelines")
        return
    columns = ("pipeline", "version", "models", "updated", "problem")
    _print_rows([[summary[key] for key in columns] for summary in summaries], columns)


@store.command()
@click.argument("pipeline")
@store_option()
@click.option("--decisions", "most", type=click.IntRange(0), default=20, show_default=True, help="Number to show.")
@json_option
def history(pipeline: str, store: str, most: int, as_json: bool) -> None:
    """List the stored versions of a PIPELINE and the decisions of the online trainer, oldest first."""
    opened = _open(store)
    current = opened.current_version(pipeline)
    versions = [
        {
            **_summary(partial(opened.snapshot, pipeline, number)),
            "version": number,
            "current": number == current,
        }
        for number in opened.versions(pipeline)
    ]
    decisions = opened.decisions(pipeline)[-most:] if most else []
    if as_json:
        print_json({"versions": versions, "decisions": decisions})
        return
    if not versions:
        click.echo(f"{pipeline}: not published by kepler-model, so it has no versions")
    else:
        rows = [
            [row["version"], "current" if row["current"] else "", row["models"], row["updated"], row["problem"]]
            for row in versions
        ]
        _print_rows(rows, ("version", "", "models", "updated", "problem"))
    if decisions:
        click.echo("\nDecisions of the online trainer")
        print_table(
            [[entry.get(key) for key in ("time", "trigger", "decision", "version", "reason")] for entry in decisions],
            ("time (UTC)", "because of", "decision", "version", "reason"),
        )


@store.command()
@click.argument("pipeline")
@click.argument("version", type=click.IntRange(min=1), required=False)
@store_option()
@json_option
def rollback(pipeline: str, version: int | None, store: str, as_json: bool) -> None:
    """Make VERSION of a PIPELINE the current one. By default, VERSION is the one before the current one."""
    opened = _open(store)
    before = opened.current_version(pipeline)
    if before is None:
        raise StoreError(f"{store}: {pipeline!r} was not published by kepler-model, so it has no versions")
    if version is None:
        version = max((number for number in opened.versions(pipeline) if number < before), default=None)
        if version is None:
            raise StoreError(f"{store}: {pipeline!r} has no version before {before}, the current one")
    # do not replace a readable version with an incomplete one
    opened.snapshot(pipeline, version).check_complete()
    opened.roll_back(pipeline, version)
    if as_json:
        print_json({"pipeline": pipeline, "version": version, "before": before})
    else:
        click.echo(f"{pipeline}: version {version} is current (before: {before})")


@store.command("import")
@click.argument("location")
@click.option("--name", metavar="NAME", help="Name in the store.  [default: the pipeline's own]")
@store_option()
@json_option
def import_(location: str, name: str | None, store: str, as_json: bool) -> None:
    """Import a pipeline from LOCATION: a zip file, a folder, or an http(s) URL of a zip file.

    The pipeline must be complete and must match its manifest, if it has one. Otherwise nothing is
    imported. If the store has a pipeline of the same name, the import becomes its next version.
    """
    from kepler_core.names import check_name
    from kepler_core.store.archive import read_pipeline

    if name is not None:
        try:
            check_name(name)
        except ValueError as error:
            raise UsageError(f"--name: {error}") from error
    opened = _open(store)
    own_name, files = read_pipeline(location, name)
    version = opened.publish(own_name, files)
    summary = _summary(partial(opened.snapshot, own_name, version))
    if as_json:
        print_json({"pipeline": own_name, "version": version, "models": summary["models"]})
    else:
        click.echo(f"{own_name}: version {version} with {summary['models']} models")


@store.command()
@click.argument("pipeline")
@click.option("--version", type=click.IntRange(min=1), help="Version to export.  [default: the current one]")
@click.option("-o", "--output", metavar="FILE.zip", required=True, help="File to write; - for standard output.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
@store_option()
def export(pipeline: str, version: int | None, output: str, force: bool, store: str) -> None:
    """Write a PIPELINE to a zip file with a manifest, for `store import`."""
    from kepler_core.store.archive import archive_bytes

    target = Path(output)
    if output != "-" and not force and os.path.lexists(target):
        raise UsageError(f"{output} is there already; --force replaces it")
    content = archive_bytes(_open(store).snapshot(pipeline, version))
    if output == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    _write_atomically(target, content)
    click.echo(f"{output}: {len(content)} bytes", err=True)


@store.command()
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option("--all-versions", is_flag=True, help="Check all stored versions, not only the current ones.")
@store_option()
@json_option
def verify(pipelines: tuple[str, ...], all_versions: bool, store: str, as_json: bool) -> None:
    """Compare every file of the PIPELINEs (by default all) with its manifest.

    The exit code is 1 if a file is damaged. A pipeline that was not published by kepler-model may have no
    manifest.
    """
    opened = _open(store)
    stored = opened.pipelines()
    if unknown := [name for name in pipelines if name not in stored]:
        raise opened.no_such_pipeline(unknown[0])
    results = []
    for name in pipelines or stored:
        numbers: list[int | None] = list(opened.versions(name)) if all_versions else []
        results += [_verify(opened, name, number) for number in numbers or [None]]
    if as_json:
        print_json(results)
    else:
        for result in results:
            version = "" if result["version"] is None else f" version {result['version']}"
            click.echo(f"{result['pipeline']}{version}: {result['state']}")
            for problem in result["problems"]:
                click.echo(f"  {problem}")
    if any(result["state"] == "damaged" for result in results):
        raise click.exceptions.Exit(1)


def _open(location: str) -> Store:
    # imported late, so that --help is fast
    from kepler_core.store import open_store

    return open_store(location)


def _summary(read: Callable[[], Snapshot]) -> dict[str, Any]:
    """Return the summary of a version for tables; if it cannot be read, with the problem."""
    from kepler_core.models.power_model import METADATA_FILE
    from kepler_core.store.models import count_models

    try:
        snapshot = read()
        snapshot.check_complete()
        metadata = snapshot.read_json(METADATA_FILE)
    except StoreError as error:
        return {"version": None, "models": None, "updated": None, "where": None, "problem": str(error)}
    updated = next((str(metadata[key]) for key in _UPDATED if metadata.get(key)), None)
    return {
        "version": snapshot.version,
        "models": count_models(snapshot),
        "updated": updated,
        "where": snapshot.where,
        "problem": None,
    }


def _verify(opened: Store, name: str, number: int | None) -> dict[str, Any]:
    """Check the files of a version, by default the current one, and return the result for the table."""
    try:
        snapshot = opened.snapshot(name, number)
    except StoreError as error:
        return {"pipeline": name, "version": number, "state": "damaged", "files": [], "problems": [str(error)]}
    problems = snapshot.problems()
    state = "damaged" if problems else "ok" if snapshot.manifest is not None else "no manifest"
    return {
        "pipeline": name,
        "version": snapshot.version,
        "state": state,
        "files": list(problems),
        "problems": list(problems.values()),
    }


def _print_rows(rows: list[list[Any]], headers: tuple[str, ...]) -> None:
    # omit the column of problems if there are none
    if all(row[-1] is None for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    print_table(rows, headers)


def _write_atomically(target: Path, content: bytes) -> None:
    try:
        with whole_file(target, f".{uuid.uuid4().hex}") as file:
            file.write(content)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
