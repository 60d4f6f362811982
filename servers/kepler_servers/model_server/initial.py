"""Pipelines that are imported when the server starts (INITIAL_PIPELINE_URL)."""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Sequence

from kepler_core.errors import KeplerError, StoreError
from kepler_core.store import Store
from kepler_core.store.archive import read_pipeline
from kepler_core.store.manifest import make_manifest

log = logging.getLogger(__name__)

FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 300.0


def import_in_background(store: Store, locations: Sequence[str], lock: str) -> threading.Thread:
    """Import each pipeline into the store; what cannot be had now is tried again, ever more rarely.

    Of several worker processes the one that gets the lock does it, and if it dies, the next one.
    """
    thread = threading.Thread(
        target=_import_all, args=(store, list(locations), lock), name="initial pipelines", daemon=True
    )
    thread.start()
    return thread


def _import_all(store: Store, locations: list[str], lock: str) -> None:
    with open(lock, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _import_until_done(store, locations)


def _import_until_done(store: Store, locations: list[str]) -> None:
    wait = FIRST_WAIT_SECONDS
    left = locations
    while True:
        left = [location for location in left if not _import(store, location)]
        if not left:
            return
        log.warning("%d initial pipelines are missing; trying again in %g s", len(left), wait)
        threading.Event().wait(wait)
        wait = min(wait * 2, LONGEST_WAIT_SECONDS)


def _import(store: Store, location: str) -> bool:
    try:
        name, files = read_pipeline(location)
        if _is_current(store, name, files):
            log.info("initial pipeline %s is in the store already", name)
            return True
        version = store.publish(name, files)
    except KeplerError as error:
        log.error("initial pipeline %s: %s", location, error)
        return False
    except Exception:
        log.exception("initial pipeline %s failed; this is a defect of the model server", location)
        return False
    log.info("initial pipeline %s imported from %s as version %d", name, location, version)
    return True


def _is_current(store: Store, name: str, files: dict[str, bytes]) -> bool:
    if name not in store.pipelines():
        return False
    try:
        manifest = store.snapshot(name).manifest
    except StoreError:
        return False  # what is there is broken: a new version mends it
    return manifest is not None and manifest.files == make_manifest(files).files
