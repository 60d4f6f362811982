"""A catalogue of models that is updated when its model store changes."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from kepler_core.errors import KeplerError, StoreError
from kepler_core.messages import one_line
from kepler_core.selection import Catalogue
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.selection.similarity import SpecTable
from kepler_core.store import Store
from kepler_core.store.models import NodeType, StoredModel
from kepler_core.store.serving_index import IndexedModels, UnusableIndexError, first_difference

log = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0
"""Time between two checks of the store for changes. It is also the delay before the first retry if a pipeline cannot
be read."""
_MAX_RETRY_SECONDS = 60.0
CHECK_PAUSE_SECONDS = 0.02
"""The check of an index pauses for this time after every `_CHECKED_AT_ONCE` models, so that requests are answered."""
_CHECKED_AT_ONCE = 10


@attrs.define(eq=False)
class _Pipeline:
    """The latest readable version of a pipeline, and the problem if the current version cannot be read."""

    signature: str | None = None
    models: Sequence[StoredModel] = ()
    node_types: Mapping[int, NodeType] = attrs.field(factory=dict)
    version: int | None = None
    problem: str | None = None
    failures: int = 0
    retry_at: float = 0.0
    """Monotonic time before which the pipeline is not read again."""
    index: IndexedModels | None = None
    """The index from which the models were read. It becomes None when it has been compared with the version's files."""


class LiveCatalogue:
    """The models of a store, which are updated within seconds after the store changes.

    If the current version of a pipeline cannot be read, the catalogue keeps the models of the last version that
    could be read, and `broken` contains the pipeline.
    """

    def __init__(
        self,
        store: Store,
        *,
        compare: Callable[[Sequence[Mapping[str, Any]]], SpecTable],
        error_key: str,
        serving: bool,
    ) -> None:
        """Create a catalogue without models; `refresh` reads them.

        See `Catalogue` for `compare` and `error_key`, and `store.models.read_models` for `serving`.
        """
        self.store = store
        self._compare = compare
        self._error_key = error_key
        self._serving = serving
        self._pipelines: dict[str, _Pipeline] = {}
        self._without_index: set[str] = set()
        """Versions whose index is not used, because the index is wrong or a file is damaged. They are identified by
        their signatures."""
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self.store_problem: str | None = None
        self.looked_at: float = 0.0
        """Unix time at which the latest successful check of the store for changes began; 0 before the first check."""
        self.changed_at: float = 0.0
        """Unix time of the latest change of `current`; 0 before the first change."""
        self.current = self._catalogue({})

    @property
    def broken(self) -> dict[str, str]:
        """The pipelines whose current version cannot be read, by name, with the reasons."""
        return self.current.broken

    def version_of(self, pipeline: str) -> int | None:
        """Return the number of the served version of a pipeline.

        The result is None if no version is served, or if Kepler Core did not publish the pipeline.
        """
        entry = self._pipelines.get(pipeline)
        return entry.version if entry is not None else None

    def refresh(self) -> bool:
        """Read the pipelines that have changed in the store, and return whether `current` has changed."""
        with self._changing:
            started = time.time()
            try:
                names = self.store.pipelines()
                if not names and not self.store.exists():
                    raise StoreError(f"{self.store.location}: there is no such folder")
            except KeplerError as error:
                if self.store_problem is None:
                    log.error("the store cannot be read; the models that were read before are still served: %s", error)
                self.store_problem = str(error)
                return False
            if self.store_problem is not None:
                log.warning("the store can be read again")
                self.store_problem = None
            changed = False
            for removed in set(self._pipelines) - set(names):
                log.info("pipeline %s was removed from the store", removed)
                del self._pipelines[removed]
                changed = True
            for name in names:
                changed |= self._refresh_pipeline(name)
            if changed:
                self._rebuild()
                self.changed_at = time.time()
            self.looked_at = started
            return changed

    def drop(self, model: StoredModel, problem: str) -> None:
        """Stop serving a model whose files are damaged."""
        with self._changing:
            pipeline = self._pipelines.get(model.pipeline)
            if pipeline is None or model not in pipeline.models:
                return
            log.error("model %s is no longer served: %s", model.path, problem)
            pipeline.models = [other for other in pipeline.models if other is not model]
            pipeline.problem = problem
            self._without_index.add(str(pipeline.signature))
            pipeline.signature = ""  # makes the next `refresh` read the pipeline again
            self._rebuild()

    def watch(self) -> None:
        """Start a thread that calls `refresh` every `REFRESH_SECONDS`, until `stop` is called.

        A second thread compares the models that come from an index with the files of their version.
        """
        threading.Thread(target=self._watch, name="catalogue", daemon=True).start()
        if self._serving:
            threading.Thread(target=self._check_indexes, name="index check", daemon=True).start()

    def stop(self) -> None:
        """End the threads that `watch` has started."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            try:
                self.refresh()
            except Exception:
                # a bug in our code must not end the thread; the models that were read before are still served
                log.exception("refreshing the catalogue failed")

    def _refresh_pipeline(self, name: str) -> bool:
        """Read a pipeline if it has changed, and return whether the catalogue must be built again."""
        pipeline = self._pipelines.setdefault(name, _Pipeline())
        if pipeline.problem is not None and pipeline.failures and time.monotonic() < pipeline.retry_at:
            return False
        try:
            signature = self.store.signature(name)
            if signature == pipeline.signature:
                # The current version is already served, e.g. after a rollback from a version that could not be read.
                recovered = pipeline.failures > 0
                if recovered:
                    pipeline.problem, pipeline.failures = None, 0
                return recovered
            indexed = self._indexed(name, signature) if self._serving else None
            if indexed is not None:
                snapshot, models, node_types = indexed.snapshot, indexed.models, indexed.node_types
            else:
                snapshot = self.store.snapshot(name)
                models, node_types = read_pipeline_models(snapshot, serving=self._serving)
        except KeplerError as error:
            return self._failed(name, pipeline, str(error))
        except Exception as error:
            # a bug in our code that occurs with one pipeline must not stop the serving of the other pipelines
            log.exception("reading pipeline %s failed", name)
            return self._failed(name, pipeline, f"a defect of the server: {type(error).__name__}")
        version = "" if snapshot.version is None else f", version {snapshot.version}"
        log.info("pipeline %s%s: %d models, %d node types", name, version, len(models), len(node_types))
        self._pipelines[name] = _Pipeline(signature, models, node_types, snapshot.version, index=indexed)
        return True

    def _indexed(self, name: str, signature: str) -> IndexedModels | None:
        """Return the models of a pipeline from its index; None if there is no index that can be used."""
        if signature in self._without_index:
            return None
        try:
            return self.store.indexed_models(name)
        except UnusableIndexError as error:
            log.warning("pipeline %s: its index is not used, all its files are read: %s", name, error)
            return None

    def _check_indexes(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            for name, pipeline in list(self._pipelines.items()):
                if pipeline.index is not None:
                    try:
                        self._check_index(name, pipeline, pipeline.index)
                    except Exception:
                        # A bug must not end this thread.
                        log.exception("the index of pipeline %s could not be checked", name)
                    pipeline.index = None

    def _check_index(self, name: str, pipeline: _Pipeline, index: IndexedModels) -> None:
        """Compare the models of an index with the files of the version. If they differ, read the files."""
        counter = itertools.count(1)

        def pause() -> bool:
            wait = CHECK_PAUSE_SECONDS if next(counter) % _CHECKED_AT_ONCE == 0 else 0
            return self._stop.wait(wait) or self._pipelines.get(name) is not pipeline

        problem, is_wrong = None, False
        try:
            if (path := first_difference(index, pause)) is not None:
                problem, is_wrong = f"its index has another content than the files of {path}", True
        except StoreError as error:
            problem = str(error)
        except Exception as error:  # e.g. zlib raises its own errors if the index is damaged
            problem, is_wrong = f"its index cannot be compared with its files: {one_line(error)}", True
        with self._changing:
            if problem is None or self._pipelines.get(name) is not pipeline:
                return
            self._without_index.add(str(pipeline.signature))
            pipeline.signature = ""  # makes `refresh` read the files of the pipeline
            pipeline.retry_at = 0.0
            log.error("pipeline %s: all its files are read again: %s", name, problem)
            if is_wrong:
                # The index may be forged, so none of its models is served any more, even if no file can be read now.
                pipeline.models, pipeline.node_types = (), {}
                self._rebuild()
        self.refresh()

    def _failed(self, name: str, pipeline: _Pipeline, problem: str) -> bool:
        pipeline.failures += 1
        delay = min(REFRESH_SECONDS * 2 ** min(pipeline.failures - 1, 10), _MAX_RETRY_SECONDS)
        pipeline.retry_at = time.monotonic() + delay
        if problem == pipeline.problem:
            return False
        count = len(pipeline.models)
        consequence = f"its last good version with {count} models is served" if count else "it is skipped"
        log.error("pipeline %s cannot be read, %s: %s", name, consequence, problem)
        pipeline.problem = problem
        return True

    def _rebuild(self) -> None:
        """Build the catalogue again. Leave out each pipeline that makes the building fail."""
        try:
            self.current = self._catalogue(self._pipelines)
        except Exception:
            # a bug in our code that occurs with one pipeline must not stop the serving of the other pipelines
            log.exception("building the catalogue of all pipelines failed; trying each pipeline alone")
            for name, pipeline in list(self._pipelines.items()):
                try:
                    self._catalogue({name: pipeline})
                except Exception as error:
                    problem = f"a defect of the server: {type(error).__name__}"
                    log.error("pipeline %s is skipped: %s", name, problem)
                    self._pipelines[name] = _Pipeline(pipeline.signature, version=pipeline.version, problem=problem)
            self.current = self._catalogue(self._pipelines)

    def _catalogue(self, pipelines: Mapping[str, _Pipeline]) -> Catalogue:
        pipelines = dict(sorted(pipelines.items()))
        return Catalogue(
            [model for pipeline in pipelines.values() for model in pipeline.models],
            {name: pipeline.node_types for name, pipeline in pipelines.items() if pipeline.signature is not None},
            {name: pipeline.problem for name, pipeline in pipelines.items() if pipeline.problem is not None},
            compare=self._compare,
            error_key=self._error_key,
            location=self.store.location,
        )
