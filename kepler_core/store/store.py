"""The interface of model stores.

    <store>/<pipeline>/   metadata.json, node_type_index.json, …_model_metadata.csv, manifest.json,
                          <source>/<output_type>/<feature_group>/<Trainer>_<node_type>.zip, …

A store keeps the versions of its pipelines. Readers take a `Snapshot` of a pipeline. It stays the same version while
they read, even if a new version is published meanwhile. A pipeline that was copied into the store by hand can be read
too. Such a pipeline has no versions and no manifest, and Kepler Core never writes to it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import attrs

from kepler_core.errors import StoreError
from kepler_core.names import check_name
from kepler_core.store.documents import check_documents
from kepler_core.store.snapshot import Snapshot
from kepler_core.urls import shown_location

if TYPE_CHECKING:
    from kepler_core.store.serving_index import IndexedModels


@attrs.frozen
class Pruned:
    """The outcome of `Store.prune`: version numbers, the oldest version first."""

    removed: list[int]
    kept: list[int]
    in_use: list[int]
    """The versions among `kept` that are kept only because a process is reading them."""


class Store(ABC):
    """A folder or bucket with pipelines of models. Creating a `Store` object does not access the folder or bucket."""

    location: str
    """The store's folder or URL, for messages."""

    @abstractmethod
    def pipelines(self) -> list[str]:
        """Return the sorted names of the pipelines. A store that does not exist has no pipelines."""

    def exists(self) -> bool:
        """Return whether the store exists, even if it is empty."""
        return True

    @abstractmethod
    def snapshot(self, pipeline: str, version: int | None = None) -> Snapshot:
        """Return a snapshot of the pipeline's current version, or of the version with the number `version`.

        Raises `StoreError` if the version does not exist or cannot be read.
        """

    def indexed_models(self, pipeline: str) -> IndexedModels | None:
        """Return the models of the pipeline's current version from its index; None if the version has no index.

        Raises `UnusableIndexError` if the index cannot be used, and `StoreError` if the version cannot be read.
        """
        return None

    @abstractmethod
    def signature(self, pipeline: str) -> str:
        """Return a text that changes when the pipeline's content changes, e.g. when another version becomes current.

        The call is cheap enough to be called every second.
        """

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
        """Publish files as the pipeline's new current version, and return the version's number.

        `files` maps paths below the pipeline to contents. A manifest is added. `StoreError` is raised for a
        document that readers would reject. If publishing fails, the current version stays current.

        Pass `version` if some of the files were copied from an earlier version of the pipeline. Call `next_version`
        first, then read the earlier version. Pass the number that `next_version` returned. If another publisher has
        taken this number meanwhile, `VersionTakenError` is raised.
        """
        check_documents(files, f"cannot publish {pipeline}")
        number = self._publish(pipeline, files, version)
        self._notify(pipeline, "publish", number)
        return number

    def roll_back(self, pipeline: str, version: int) -> None:
        """Make a stored version the pipeline's current version."""
        self._roll_back(pipeline, version)
        self._notify(pipeline, "roll back", version)

    def prune(self, pipeline: str, keep: int, *, dry_run: bool = False) -> Pruned:
        """Remove all but the newest `keep` versions of a pipeline. With `dry_run`, only return what would be removed.

        The current version is never removed. As long as a process of this machine has a snapshot of a version,
        this version is not removed either. Raises `StoreError` if the store is not in a local folder.
        """
        raise StoreError(f"{self.location}: versions can only be removed from a store in a local folder")

    def _notify(self, pipeline: str, action: str, version: int) -> None:
        from kepler_core.plugins.hooks import hooks

        hooks().call(
            "kepler_store_changed",
            store=shown_location(self.location),
            pipeline=pipeline,
            action=action,
            version=version,
        )

    @abstractmethod
    def _publish(self, pipeline: str, files: Mapping[str, bytes], version: int | None) -> int: ...

    @abstractmethod
    def _roll_back(self, pipeline: str, version: int) -> None: ...

    @abstractmethod
    def record_decision(self, pipeline: str, decision: Mapping[str, Any], page: bytes | None = None) -> None:
        """Store a decision about a pipeline as JSON, and remove all but the newest `MAX_DECISIONS` decisions.

        `page` is an HTML page about the decision, which is stored beside it; None if there is none. The key `page` of
        the stored decision has the path of this page below the store. All but the newest `MAX_PAGES` pages are removed.
        """

    @abstractmethod
    def decisions(self, pipeline: str) -> list[dict[str, Any]]:
        """Return the stored decisions about a pipeline, oldest first. Damaged files are left out."""

    @abstractmethod
    def check_writable(self, pipeline: str) -> None:
        """Raise `StoreError` if the pipeline cannot be published. Callers check this before a long training."""

    def no_such_version(self, pipeline: str, version: int) -> StoreError:
        """Return the error for a version that does not exist."""
        kept = ", ".join(map(str, self.versions(pipeline))) or "none"
        return StoreError(f"{self.location}: pipeline {pipeline!r} has no version {version} (kept: {kept})")

    def no_such_pipeline(self, pipeline: str) -> StoreError:
        """Return the error for a pipeline that does not exist."""
        names = ", ".join(self.pipelines()) or "none"
        return StoreError(f"{self.location}: no pipeline {pipeline!r} (available: {names})")


def checked_name(pipeline: str) -> str:
    """Return the name, or raise `StoreError` if a pipeline cannot have this name."""
    try:
        return check_name(pipeline)
    except ValueError as error:
        raise StoreError(f"pipeline {error}") from error
