"""Import of pipelines into the model store when the model server starts (INITIAL_PIPELINE_URL)."""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Sequence

from kepler_core.errors import KeplerError, StoreError
from kepler_core.store import Store
from kepler_core.store.archive import read_pipeline
from kepler_core.store.manifest import make_manifest
from kepler_core.urls import shown_location

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS = 5.0
"""Delay before a failed import is retried. The delay doubles with each retry, up to `MAX_RETRY_SECONDS`."""
MAX_RETRY_SECONDS = 300.0


def import_in_background(store: Store, locations: Sequence[str], lock: str) -> threading.Thread:
    """Start a thread that imports pipelines into the store, and return the thread.

    The thread retries failed imports, with growing delays. Each worker process starts such a thread, but
    only the process that gets the file lock `lock` imports. If that process dies, another one gets the lock.
    """
    thread = threading.Thread(
        target=_import_all, args=(store, list(locations), lock), name="initial pipelines", daemon=True
    )
    thread.start()
    return thread


def _import_all(store: Store, locations: list[str], lock: str) -> None:
    with open(lock, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _retry_until_imported(store, locations)


def _retry_until_imported(store: Store, locations: list[str]) -> None:
    delay = FIRST_RETRY_SECONDS
    missing = locations
    while True:
        missing = [location for location in missing if not _import(store, location)]
        if not missing:
            return
        log.warning("%d initial pipelines are missing; trying again in %g s", len(missing), delay)
        threading.Event().wait(delay)
        delay = min(delay * 2, MAX_RETRY_SECONDS)


def _import(store: Store, location: str) -> bool:
    """Import a pipeline unless the store has it already. Return whether the store has the pipeline now."""
    where = shown_location(location)
    try:
        name, files = read_pipeline(location)
        if _is_current(store, name, files):
            log.info("initial pipeline %s is in the store already", name)
            return True
        version = store.publish(name, files)
    except KeplerError as error:
        log.error("initial pipeline %s: %s", where, error)
        return False
    except Exception:
        log.exception("the import of initial pipeline %s failed; this is a defect of the model server", where)
        return False
    log.info("initial pipeline %s imported from %s as version %d", name, where, version)
    return True


def _is_current(store: Store, name: str, files: dict[str, bytes]) -> bool:
    if name not in store.pipelines():
        return False
    try:
        manifest = store.snapshot(name).manifest
    except StoreError:
        return False  # the current version in the store is damaged, so the pipeline is imported as a new version
    return manifest is not None and manifest.files == make_manifest(files).files
