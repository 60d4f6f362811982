"""`store`: what is in a model store, and its pipelines in and out."""

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
    """The pipelines of a store. One that cannot be read is listed with the reason."""
    opened = _open(store)
    found = [{"pipeline": name, **_summary(partial(opened.snapshot, name))} for name in opened.pipelines()]
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo(f"{store}: no pipelines")
        return
    rows = [[row[key] for key in ("pipeline", "version", "models", "updated", "problem")] for row in found]
    _print_rows(rows, ("pipeline", "version", "models", "updated", "problem"))


@store.command()
@click.argument("pipeline")
@store_option()
@click.option("--decisions", "most", type=click.IntRange(0), default=20, show_default=True, help="So many at most.")
@json_option
def history(pipeline: str, store: str, most: int, as_json: bool) -> None:
    """The versions of a PIPELINE that are kept, and what the online trainer decided, oldest first."""
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
            [[found.get(key) for key in ("time", "trigger", "decision", "version", "reason")] for found in decisions],
            ("time (UTC)", "because of", "decision", "version", "reason"),
        )


@store.command()
@click.argument("pipeline")
@click.argument("version", type=click.IntRange(min=1), required=False)
@store_option()
@json_option
def rollback(pipeline: str, version: int | None, store: str, as_json: bool) -> None:
    """Make VERSION of a PIPELINE current: by default the one before the current one."""
    opened = _open(store)
    before = opened.current_version(pipeline)
    if before is None:
        raise StoreError(f"{store}: {pipeline!r} was not published by kepler-model, so it has no versions")
    if version is None:
        version = max((number for number in opened.versions(pipeline) if number < before), default=None)
        if version is None:
            raise StoreError(f"{store}: {pipeline!r} has no version before {before}, the current one")
    # a version that cannot be read would take the place of one that can
    opened.snapshot(pipeline, version).check_complete()
    opened.roll_back(pipeline, version)
    if as_json:
        print_json({"pipeline": pipeline, "version": version, "before": before})
    else:
        click.echo(f"{pipeline}: version {version} is current (before: {before})")


@store.command("import")
@click.argument("location")
@click.option("--name", metavar="NAME", help="Name in the store; by default the pipeline's own.")
@store_option()
@json_option
def import_(location: str, name: str | None, store: str, as_json: bool) -> None:
    """Publish a pipeline from LOCATION: a zip file, a folder, or an http(s) URL of a zip file.

    All or nothing: it must be whole, and as its manifest says if it has one. If the store has a
    pipeline of the name, this is its next version.
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
@click.option("--version", type=click.IntRange(min=1), help="By default the current one.")
@click.option("-o", "--output", metavar="FILE.zip", required=True, help="The archive; - for standard output.")
@click.option("--force", is_flag=True, help="Replace the file if there is one.")
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
    _write_whole(target, content)
    click.echo(f"{output}: {len(content)} bytes", err=True)


@store.command()
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option("--all-versions", is_flag=True, help="Every version that is kept, not only the current ones.")
@store_option()
@json_option
def verify(pipelines: tuple[str, ...], all_versions: bool, store: str, as_json: bool) -> None:
    """Read every file of the PIPELINEs (by default all) and compare it with its manifest.

    Exit code 1 if anything is damaged. A pipeline that was not published by kepler-model may have no manifest.
    """
    opened = _open(store)
    known = opened.pipelines()
    if unknown := [name for name in pipelines if name not in known]:
        raise opened.no_such_pipeline(unknown[0])
    found = []
    for name in pipelines or known:
        numbers: list[int | None] = list(opened.versions(name)) if all_versions else []
        found += [_verify(opened, name, number) for number in numbers or [None]]
    if as_json:
        print_json(found)
    else:
        for row in found:
            version = "" if row["version"] is None else f" version {row['version']}"
            click.echo(f"{row['pipeline']}{version}: {row['state']}")
            for why in row["problems"]:
                click.echo(f"  {why}")
    if any(row["state"] == "damaged" for row in found):
        raise click.exceptions.Exit(1)


def _open(location: str) -> Store:
    from kepler_core.store import open_store

    return open_store(location)


def _summary(read: Callable[[], Snapshot]) -> dict[str, Any]:
    """What a table says of a version; if it cannot be read, why."""
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
    # most stores have no problem, and a column of dashes says nothing
    if all(row[-1] is None for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    print_table(rows, headers)


def _write_whole(target: Path, content: bytes) -> None:
    """The file is there as a whole or not at all."""
    try:
        with whole_file(target, f".{uuid.uuid4().hex}") as file:
            file.write(content)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror or error}") from error
