"""The catalogue that is served, kept up to date with its store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from kepler_core.errors import KeplerError, StoreError
from kepler_core.selection import Catalogue
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.selection.similarity import SpecTable
from kepler_core.store import Store
from kepler_core.store.models import NodeType, StoredModel

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""How often the store is looked at."""
_LONGEST_WAIT = 60.0


@attrs.define(eq=False)
class _Pipeline:
    """What was last read of a pipeline, and how it went."""

    signature: str | None = None
    models: Sequence[StoredModel] = ()
    node_types: Mapping[int, NodeType] = attrs.field(factory=dict)
    version: int | None = None
    problem: str | None = None
    failures: int = 0
    again_at: float = 0.0


class LiveCatalogue:
    """The models of a store as of a moment ago.

    A pipeline that cannot be read keeps its last good models, and is named in `broken`.
    """

    def __init__(
        self,
        store: Store,
        *,
        compare: Callable[[Sequence[Mapping[str, Any]]], SpecTable],
        error_key: str,
        serving: bool,
    ) -> None:
        """`serving`: see `kepler_core.store.models.read_models`."""
        self.store = store
        self._compare = compare
        self._error_key = error_key
        self._serving = serving
        self._pipelines: dict[str, _Pipeline] = {}
        self._changing = threading.Lock()
        self._stop = threading.Event()
        self.store_problem: str | None = None
        self.looked_at: float = 0.0
        """Unix time of the last look at the store."""
        self.changed_at: float = 0.0
        self.current = self._catalogue()

    @property
    def broken(self) -> dict[str, str]:
        """Pipelines that cannot be read as they are now, and why."""
        return self.current.broken

    def version_of(self, pipeline: str) -> int | None:
        """The version of a pipeline that is served; None if it has none."""
        found = self._pipelines.get(pipeline)
        return found.version if found is not None else None

    def refresh(self) -> bool:
        """Look at the store once; whether anything changed."""
        with self._changing:
            try:
                names = self.store.pipelines()
                if not names and not self.store.exists():
                    raise StoreError(f"{self.store.location}: there is no such folder")
            except KeplerError as error:
                if self.store_problem is None:
                    log.error("the store cannot be read, what was read before is served: %s", error)
                self.store_problem = str(error)
                return False
            if self.store_problem is not None:
                log.warning("the store can be read again")
                self.store_problem = None
            changed = False
            for gone in set(self._pipelines) - set(names):
                log.info("pipeline %s is gone from the store", gone)
                del self._pipelines[gone]
                changed = True
            for name in names:
                changed |= self._look_at(name)
            if changed:
                self.current = self._catalogue()
                self.changed_at = time.time()
            self.looked_at = time.time()
            return changed

    def drop(self, model: StoredModel, problem: str) -> None:
        """Serve a model no longer: its files turned out to be damaged."""
        with self._changing:
            pipeline = self._pipelines.get(model.pipeline)
            if pipeline is None or model not in pipeline.models:
                return
            log.error("%s is served no longer: %s", model.path, problem)
            pipeline.models = [other for other in pipeline.models if other is not model]
            pipeline.problem = problem
            pipeline.signature = ""  # read again as soon as it is whole again
            self.current = self._catalogue()

    def watch(self) -> None:
        """Look at the store again and again, in a thread of its own, until `stop`."""
        threading.Thread(target=self._watch, name="catalogue", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            try:
                self.refresh()
            except Exception:
                # a defect of ours must not end the watching; what was read is still served
                log.exception("looking at the store failed")

    def _look_at(self, name: str) -> bool:
        known = self._pipelines.setdefault(name, _Pipeline())
        if known.problem is not None and known.failures and time.monotonic() < known.again_at:
            return False
        try:
            signature = self.store.signature(name)
            if signature == known.signature:
                # back to what is served already, as after a rollback
                recovered = known.failures > 0
                if recovered:
                    known.problem, known.failures = None, 0
                return recovered
            snapshot = self.store.snapshot(name)
            models, node_types = read_pipeline_models(snapshot, serving=self._serving)
        except KeplerError as error:
            return self._failed(name, known, str(error))
        except Exception as error:
            # a defect of ours with one pipeline must not end the others' service
            log.exception("reading pipeline %s failed", name)
            return self._failed(name, known, f"a defect of the server: {type(error).__name__}")
        version = "" if snapshot.version is None else f", version {snapshot.version}"
        log.info("pipeline %s%s: %d models, %d node types", name, version, len(models), len(node_types))
        self._pipelines[name] = _Pipeline(signature, models, node_types, snapshot.version)
        return True

    def _failed(self, name: str, known: _Pipeline, problem: str) -> bool:
        known.failures += 1
        known.again_at = time.monotonic() + min(LOOK_SECONDS * 2 ** min(known.failures - 1, 10), _LONGEST_WAIT)
        if problem == known.problem:
            return False
        kept = f"its last good version with {len(known.models)} models is served" if known.models else "it is skipped"
        log.error("pipeline %s cannot be read, %s: %s", name, kept, problem)
        known.problem = problem
        return True

    def _catalogue(self) -> Catalogue:
        read = dict(sorted(self._pipelines.items()))
        return Catalogue(
            [model for found in read.values() for model in found.models],
            {name: found.node_types for name, found in read.items() if found.signature is not None},
            {name: found.problem for name, found in read.items() if found.problem is not None},
            compare=self._compare,
            error_key=self._error_key,
            location=self.store.location,
        )
