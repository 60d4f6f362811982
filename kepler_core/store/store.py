"""The interface of model stores.

    <store>/<pipeline>/   metadata.json, node_type_index.json, …_model_metadata.csv, manifest.json,
                          <source>/<output_type>/<feature_group>/<Trainer>_<node_type>.zip, …

A store keeps versions of its pipelines. Readers take a `Snapshot` of a pipeline. It stays one version
while they read, whatever is published meanwhile. A pipeline that was copied into the store by hand can
be read too. It has no versions and no manifest, and Kepler Core never writes to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from kepler_core.errors import StoreError
from kepler_core.names import check_name
from kepler_core.store.documents import check_documents
from kepler_core.store.snapshot import Snapshot
from kepler_core.store.urls import shown_url


class Store(ABC):
    """A place that holds pipelines of models. Creating the object does not access the place."""

    location: str
    """The folder or URL, for messages."""

    @abstractmethod
    def pipelines(self) -> list[str]:
        """Return the names of the pipelines, sorted. An absent store has none."""

    def exists(self) -> bool:
        """Return whether the store exists, even if it is empty."""
        return True

    @abstractmethod
    def snapshot(self, pipeline: str, version: int | None = None) -> Snapshot:
        """Return a snapshot of the pipeline's current version, or of an earlier one.

        Raises `StoreError` if the version does not exist or cannot be read.
        """

    @abstractmethod
    def signature(self, pipeline: str) -> str:
        """Return a text that changes with the pipeline's current content. Cheap enough for every second."""

    @abstractmethod
    def versions(self, pipeline: str) -> list[int]:
        """Return the numbers of the stored versions, oldest first."""

    def next_version(self, pipeline: str) -> int:
        """Return the number that the next published version will have."""
        return max(self.versions(pipeline), default=0) + 1

    @abstractmethod
    def current_version(self, pipeline: str) -> int | None:
        """Return the number of the current version; None if Kepler Core did not publish the pipeline."""

    def publish(self, pipeline: str, files: Mapping[str, bytes], *, version: int | None = None) -> int:
        """Publish files, by path below the pipeline, as the new current version and return its number.

        A manifest of the files is added. On any error the store stays as it was. If the files build on
        an earlier version, pass as `version` what `next_version` returned before that version was read:
        `VersionTakenError` is raised if another publisher has taken the number since. `StoreError` is raised
        for a document that a reader would reject.
        """
        check_documents(files, f"cannot publish {pipeline}")
        number = self._publish(pipeline, files, version)
        self._notify(pipeline, "publish", number)
        return number

    def roll_back(self, pipeline: str, version: int) -> None:
        """Make another stored version the current one."""
        self._roll_back(pipeline, version)
        self._notify(pipeline, "roll back", version)

    def _notify(self, pipeline: str, action: str, version: int) -> None:
        from kepler_core.plugins.hooks import hooks

        hooks().call(
            "kepler_store_changed", store=shown_url(self.location), pipeline=pipeline, action=action, version=version
        )

    @abstractmethod
    def _publish(self, pipeline: str, files: Mapping[str, bytes], version: int | None) -> int: ...

    @abstractmethod
    def _roll_back(self, pipeline: str, version: int) -> None: ...

    @abstractmethod
    def record_decision(self, pipeline: str, decision: Mapping[str, Any]) -> None:
        """Store a decision about a pipeline as JSON, and keep the newest `MAX_DECISIONS`."""

    @abstractmethod
    def decisions(self, pipeline: str) -> list[dict[str, Any]]:
        """Return the stored decisions, oldest first, without damaged ones."""

    @abstractmethod
    def check_writable(self, pipeline: str) -> None:
        """Raise `StoreError` if the pipeline cannot be published, before an hour of training is spent."""

    def no_such_version(self, pipeline: str, version: int) -> StoreError:
        """Return the error for a version that does not exist."""
        kept = ", ".join(map(str, self.versions(pipeline))) or "none"
        return StoreError(f"{self.location}: pipeline {pipeline!r} has no version {version} (kept: {kept})")

    def no_such_pipeline(self, pipeline: str) -> StoreError:
        """Return the error for a pipeline that does not exist."""
        names = ", ".join(self.pipelines()) or "none"
        return StoreError(f"{self.location}: no pipeline {pipeline!r} (there: {names})")


def checked_name(pipeline: str) -> str:
    """Return the name; `StoreError` if a pipeline cannot have it."""
    try:
        return check_name(pipeline)
    except ValueError as error:
        raise StoreError(f"pipeline {error}") from error
