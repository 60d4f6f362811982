"""Import pipelines into the model store when the model server starts (INITIAL_PIPELINE_URL, MODEL_TOPURL)."""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from kepler_core.errors import KeplerError, StoreError
from kepler_core.store import Store
from kepler_core.store.archive import read_pipeline
from kepler_core.store.manifest import make_manifest
from kepler_core.urls import is_url, shown_location, split_url
from kepler_servers.live_catalogue import LiveCatalogue
from kepler_servers.model_server.initial_locations import DATABASE_PIPELINES

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 5.0
"""Delay before a failed import is retried. The delay doubles with each retry, up to `MAX_RETRY_SECONDS`."""
MAX_RETRY_SECONDS = 300.0
READINESS_TRIES = 3
"""Number of failures after which the server no longer waits for an import (15 s after the first failure)."""


class InitialPipelines:
    """The pipelines that a model server imports when it starts. All worker processes share one import."""

    def __init__(self, live: LiveCatalogue, locations: Sequence[Sequence[str]], scratch: str) -> None:
        """`locations` has, for each pipeline, the locations to try in order. `scratch` is a folder that all workers
        share."""
        self._live = live
        self._locations = locations
        self._lock = Path(scratch, "initial.lock")
        self._settled = Path(scratch, "initial.settled")
        self._imported = Path(scratch, "initial.imported")

    def import_in_background(self) -> None:
        """Start a thread that imports the pipelines.

        The thread retries failed imports, with growing delays. Each worker process starts such a thread, but
        only the process that gets the file lock imports. If that process dies, another worker gets the lock.
        """
        if self._locations:
            threading.Thread(target=self._import_all, name="initial pipelines", daemon=True).start()

    @property
    def settled(self) -> bool:
        """Whether the catalogue has all initial pipelines, or their import has failed `READINESS_TRIES` times."""
        if not self._locations:
            return True
        try:
            return self._settled.stat().st_mtime <= self._live.looked_at
        except FileNotFoundError:
            return False

    def _import_all(self) -> None:
        with self._lock.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self._imported.exists():
                self._retry_until_imported()
                self._imported.touch()

    def _retry_until_imported(self) -> None:
        delay = FIRST_RETRY_SECONDS
        missing = self._locations
        tries = 0
        while True:
            missing = [locations for locations in missing if not _import_first(self._live.store, locations)]
            tries += 1
            if not missing or tries == READINESS_TRIES:
                self._settle()
            if not missing:
                return
            log.warning("%d initial pipelines are missing; trying again in %g s", len(missing), delay)
            threading.Event().wait(delay)
            delay = min(delay * 2, MAX_RETRY_SECONDS)

    def _settle(self) -> None:
        """Tell all worker processes that the first imports have ended."""
        if not self._settled.exists():
            self._settled.touch()
            # `settled` compares the file's time with `looked_at`, which is a value of `time.time()`. The kernel's time
            # stamp of a new file may be some milliseconds earlier than `time.time()`.
            now = time.time()
            os.utime(self._settled, (now, now))
        self._live.refresh()


def _import_first(store: Store, locations: Sequence[str]) -> bool:
    """Import a pipeline from the first location that has it, unless the store already has the pipeline.

    Return whether the store has the pipeline now.
    """
    problems = []
    for location in locations:
        try:
            if len(locations) == 1 and (name := _database_pipeline(location)) and _is_served_folder(store, name):
                return True
            pipeline = read_pipeline(location)
        except KeplerError as error:
            problems.append(str(error))
        except Exception:
            log.exception("initial pipeline %s: this is a defect of the model server", shown_location(location))
            return False
        else:
            return _publish(store, *pipeline, shown_location(location))
    log.error("initial pipeline not imported: %s", "; ".join(problems))
    return False


def _publish(store: Store, name: str, files: dict[str, bytes], where: str) -> bool:
    """Publish a pipeline unless the store has it already. Return whether the store has the pipeline now."""
    try:
        if _is_current(store, name, files):
            log.info("initial pipeline %s is in the store already", name)
            return True
        if _is_served_folder(store, name):
            return True
        version = store.publish(name, files)
    except KeplerError as error:
        log.error("initial pipeline %s from %s: %s", name, where, error)
        return False
    except Exception:
        log.exception("initial pipeline %s from %s: this is a defect of the model server", name, where)
        return False
    log.info("initial pipeline %s imported from %s as version %d", name, where, version)
    return True


def _database_pipeline(location: str) -> str | None:
    """Return the name of the pipeline if a location points to a pipeline of the public model database, else None.

    In other databases, the name of the file may differ from the name of the pipeline.
    """
    path = split_url(location).path if is_url(location) else location
    name = Path(path).name.removesuffix(".zip")
    return name if name in DATABASE_PIPELINES else None


def _is_served_folder(store: Store, name: str) -> bool:
    """Return whether the store has a folder with the pipeline's name that was not written by kepler-model. Log such a
    folder.

    kepler-model-server writes such folders. The store serves their models, but cannot publish under their names.
    """
    try:
        if name not in store.pipelines() or store.snapshot(name).version is not None:
            return False
    except KeplerError:
        return False  # the import reports the error of the store
    log.info("pipeline %s is already in the store as a folder; it is served as it is", name)
    return True


def _is_current(store: Store, name: str, files: dict[str, bytes]) -> bool:
    if name not in store.pipelines():
        return False
    try:
        manifest = store.snapshot(name).manifest
    except StoreError:
        return False  # the current version in the store is damaged, so the pipeline is imported as a new version
    return manifest is not None and manifest.files == make_manifest(files).files
