"""The commands `store …`, which show, check, move and remove the pipelines of a model store."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.export_files import new_folder, write_atomically, write_folder
from kepler_core.cli.inputs import store_option
from kepler_core.cli.output import json_errors_option, json_option, print_json, print_table
from kepler_core.cli.store_models import compare, show
from kepler_core.errors import StoreError, UsageError
from kepler_core.messages import printable
from kepler_core.urls import shown_location

if TYPE_CHECKING:
    from kepler_core.store import Snapshot, Store

_UPDATED = ("last_update_time", "export_time", "init_time")


@click.group()
def store() -> None:
    """List, show, compare, check, import, export, prune and roll back the pipelines of a model store."""


@store.command("list", epilog=examples("store list -s models", "store list -s s3://bucket/folder --json"))
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
        click.echo(f"{shown_location(store)}: no pipelines")
        return
    columns = ("pipeline", "version", "models", "updated", "problem")
    _print_rows([[summary[key] for key in columns] for summary in summaries], columns)


@store.command(epilog=examples("store history quickstart -s models"))
@click.argument("pipeline")
@store_option()
@click.option(
    "--decisions",
    "most",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Show at most this number of the latest decisions.",
)
@json_option
def history(pipeline: str, store: str, most: int, as_json: bool) -> None:
    """List the stored versions of a PIPELINE, and the decisions of the online trainer and of `recalibrate`."""
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
        click.echo("\nDecisions of the online trainer and of recalibrate")
        print_table(
            [[entry.get(key) for key in ("time", "trigger", "decision", "version", "reason")] for entry in decisions],
            ("time (UTC)", "because of", "decision", "version", "reason"),
        )
        pages = [entry["page"] for entry in decisions if isinstance(entry.get("page"), str)]
        if pages:
            click.echo(
                f"\nReport page of the latest decision that published nothing: {printable(pages[-1])} in the store"
            )


@store.command(epilog=examples("store rollback quickstart -s models", "store rollback quickstart 3 -s models"))
@click.argument("pipeline")
@click.argument("version", type=click.IntRange(min=1), required=False)
@store_option()
@json_option
def rollback(pipeline: str, version: int | None, store: str, as_json: bool) -> None:
    """Make VERSION of a PIPELINE the current version.

    Without VERSION, the newest version before the current version becomes the current version.
    """
    opened = _open(store)
    before = opened.current_version(pipeline)
    if before is None:
        raise StoreError(
            f"{shown_location(store)}: {pipeline!r} was not published by kepler-model, so it has no versions"
        )
    if version is None:
        version = max((number for number in opened.versions(pipeline) if number < before), default=None)
        if version is None:
            raise StoreError(
                f"{shown_location(store)}: {pipeline!r} has no version before the current version, {before}"
            )
    # check the version first, because an incomplete version must not become the current version
    opened.snapshot(pipeline, version).check_complete()
    opened.roll_back(pipeline, version)
    if as_json:
        print_json({"pipeline": pipeline, "version": version, "before": before})
    else:
        click.echo(f"{pipeline}: version {version} is current (before: {before})")


@store.command("import", epilog=examples("store import pipeline.zip -s models --name mine"))
@click.argument("location")
@click.option("--name", metavar="NAME", help="Name of the pipeline in the store.  [default: its name in LOCATION]")
@store_option()
@json_option
def import_(location: str, name: str | None, store: str, as_json: bool) -> None:
    """Import a pipeline from LOCATION: a zip file, a folder, or an http(s) URL of a zip file.

    The pipeline is at the top of LOCATION, or in the only folder there. It must be complete and must match
    its manifest, if it has one. Otherwise nothing is imported. If the store already has a pipeline of this
    name, the imported files become its next version.
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


@store.command(epilog=examples("store export quickstart -s models -o quickstart.zip"))
@click.argument("pipeline")
@click.option("--version", type=click.IntRange(min=1), help="Version to export.  [default: the current version]")
@click.option(
    "-o",
    "--output",
    metavar="PATH",
    required=True,
    help="Zip file to write, or - for standard output. With --for: folder to write.",
)
@click.option("--force", is_flag=True, help="Replace the output file or folder if it exists.")
@click.option(
    "--for",
    "form",
    type=click.Choice(["model-db"]),
    help="Write a folder in the form of the public model database, with README and tables of errors.",
)
@click.option(
    "--max-error",
    "max_errors",
    metavar="LIMIT",
    multiple=True,
    help="With --for: export only models within LIMIT. LIMIT is a number of watts (the highest mae) or conditions such "
    "as mae:10;mape:20 (mape in percent), which must all hold. If the option is repeated, a model needs to be within "
    "only one of the LIMITs.",
)
@click.option("--publisher", metavar="NAME", help="With --for: name of the publisher, for metadata and README.")
@click.option(
    "--collect-date",
    metavar="DATE",
    help="With --for: date of the training data (ISO 8601), for metadata and README.",
)
@store_option()
@json_errors_option
def export(
    pipeline: str,
    version: int | None,
    output: str,
    force: bool,
    form: str | None,
    max_errors: tuple[str, ...],
    publisher: str | None,
    collect_date: str | None,
    store: str,
) -> None:
    """Write a PIPELINE to a zip file or folder, which `store import` can read.

    The zip file has all models and a manifest. At its top are metadata.json and the folders of the energy sources.
    With --for model-db, the result is a folder for the public model database, kepler-model-db. It has only the models
    within --max-error, and tables of their errors in the form of the database.
    """
    if form is not None:
        from kepler_core.model_db import Publication, export_files, parse_collect_date, parse_limits

        limits = parse_limits(max_errors)
        publication = Publication(publisher, parse_collect_date(collect_date))
        target = new_folder(output, force)
        files = export_files(_open(store).snapshot(pipeline, version), limits, publication)
        write_folder(target, files, force)
        click.echo(f"{output}: {len(files)} files", err=True)
        return
    if max_errors or publisher is not None or collect_date is not None:
        raise UsageError("--max-error, --publisher and --collect-date are only for exports with --for model-db")
    from kepler_core.store.archive import archive_bytes

    target = Path(output)
    if output != "-" and not force and os.path.lexists(target):
        raise UsageError(f"{output} already exists; --force replaces it")
    content = archive_bytes(_open(store).snapshot(pipeline, version))
    if output == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    write_atomically(target, content)
    click.echo(f"{output}: {len(content)} bytes", err=True)


@store.command(epilog=examples("store verify -s models --all-versions"))
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option(
    "--all-versions", is_flag=True, help="Check all stored versions of each pipeline, not only the current version."
)
@store_option()
@json_option
def verify(pipelines: tuple[str, ...], all_versions: bool, store: str, as_json: bool) -> None:
    """Read every file of the PIPELINEs (default: all) and compare it with the pipeline's manifest.

    The exit code is 1 if a file is damaged. A pipeline without a manifest, e.g. one that was not published
    by kepler-model, is not an error.
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


@store.command(epilog=examples("store prune --keep 3 -s models --dry-run"))
@click.argument("pipelines", nargs=-1, metavar="[PIPELINE]...")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    required=True,
    metavar="N",
    help="Number of versions to keep of each pipeline.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Only list the versions that would be removed.")
@store_option()
@json_option
def prune(pipelines: tuple[str, ...], keep: int, dry_run: bool, store: str, as_json: bool) -> None:
    """Remove all but the newest N versions of the PIPELINEs (default: all).

    The current version is kept even if it is older. A version that a process is reading is kept, too. The
    exit code is 1 if the versions of a pipeline cannot be removed. The store must be in a local folder.
    """
    opened = _open(store)
    stored = opened.pipelines()
    if unknown := [name for name in pipelines if name not in stored]:
        raise opened.no_such_pipeline(unknown[0])
    results = [_prune(opened, name, keep, dry_run) for name in pipelines or stored]
    if as_json:
        print_json(results)
    else:
        for result in results:
            click.echo(f"{result['pipeline']}: {_pruned_text(result)}")
    if any(result["problem"] is not None for result in results):
        raise click.exceptions.Exit(1)


def _open(location: str) -> Store:
    # import the module only when a command runs, so that `--help` does not wait for the import
    from kepler_core.store import open_store

    return open_store(location)


def _summary(read: Callable[[], Snapshot]) -> dict[str, Any]:
    """Return the number of a version, the number of its models and the time of its last update.

    `read` reads the version. If reading fails, the result contains the error.
    """
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
    """Check the files of version `number` of a pipeline, or of the current version if `number` is None."""
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


def _prune(opened: Store, name: str, keep: int, dry_run: bool) -> dict[str, Any]:
    """Remove versions of a pipeline and return the result. If removing fails, the result contains the error."""
    try:
        pruned = opened.prune(name, keep, dry_run=dry_run)
    except StoreError as error:
        lists: dict[str, Any] = {"removed": [], "kept": [], "in_use": []}
        return {"pipeline": name, "dry_run": dry_run, **lists, "problem": str(error)}
    lists = {"removed": pruned.removed, "kept": pruned.kept, "in_use": pruned.in_use}
    return {"pipeline": name, "dry_run": dry_run, **lists, "problem": None}


def _pruned_text(result: dict[str, Any]) -> str:
    if result["problem"] is not None:
        return str(result["problem"])
    removed, kept, in_use = (", ".join(map(str, result[key])) or "none" for key in ("removed", "kept", "in_use"))
    verb = "would remove" if result["dry_run"] else "removed"
    return f"{verb} {removed}; kept {kept}" + (f" (being read: {in_use})" if result["in_use"] else "")


def _print_rows(rows: list[list[Any]], headers: tuple[str, ...]) -> None:
    # the last column holds problems; it is omitted if no row has a problem
    if all(row[-1] is None for row in rows):
        rows, headers = [row[:-1] for row in rows], headers[:-1]
    print_table(rows, headers)


store.add_command(show)
store.add_command(compare)
