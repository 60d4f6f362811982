"""Publishing at most once per job, whatever is killed when.

A pipeline that the offline trainer publishes has the file `training_job.json` with the job's id. An
attempt that follows one which was killed while publishing looks for it among the versions first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from kepler_core.errors import StoreError
from kepler_core.plugins.hooks import hookimpl
from kepler_core.store import Store

JOB_FILE = "training_job.json"


class _Mark(msgspec.Struct):
    job: str


class JobMark:
    """A listener that puts the job's id into what is published."""

    def __init__(self, job: str) -> None:
        self._job = job

    @hookimpl
    def kepler_publishing(self, files: dict[str, bytes]) -> None:
        files[JOB_FILE] = msgspec.json.encode(_Mark(self._job))


def published_version(store: Store, pipeline: str, job: str) -> int | None:
    """The version that the job published, made current if whoever published it was killed just before
    that; None if it published none."""
    for version in reversed(store.versions(pipeline)):
        snapshot = store.snapshot(pipeline, version)
        if JOB_FILE not in snapshot.names or _job_of(snapshot.read(JOB_FILE)) != job:
            continue
        if version > (_current(store, pipeline) or 0):
            store.roll_back(pipeline, version)
        return version
    return None


def recovered_report(store: Store, pipeline: str, version: int) -> Mapping[str, Any]:
    """What is known of a training whose process was killed after it had published."""
    metadata = store.snapshot(pipeline, version).read_json("metadata.json")
    kept = {key: metadata.get(key, []) for key in ("failed", "skipped", "notes")}
    return {"pipeline": pipeline, "store": store.location, "version": version, **kept}


def _job_of(content: bytes) -> str | None:
    try:
        return msgspec.json.decode(content, type=_Mark).job
    except (msgspec.DecodeError, RecursionError):
        return None


def _current(store: Store, pipeline: str) -> int | None:
    try:
        return store.current_version(pipeline)
    except StoreError:  # it has none yet
        return None
