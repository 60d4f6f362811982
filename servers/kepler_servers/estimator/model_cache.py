"""The cache of loaded models: one entry per model key, filled and refreshed by a background thread."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs

from kepler_core.errors import KeplerError, ModelError, NoModelError
from kepler_core.messages import one_line, printable, quoted
from kepler_core.models.power_model import PowerModel
from kepler_core.plugins.hooks import hooks
from kepler_core.selection import ModelRequest
from kepler_core.selection.filters import parse_filter
from kepler_servers.estimator.model_providers import ModelOffer, ModelProvider, StillRunningError
from kepler_servers.estimator.request import ModelKey
from kepler_servers.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

MAX_MODELS = 16
"""Loaded models in memory. Beyond it, the cache evicts the entry that was requested least recently."""
MAX_KEYS = 500
"""Entries, with or without a model."""
MAX_QUEUED_KEYS = 64
"""Keys that may wait for their first search. Further new keys fail until the queue is shorter."""

NO_PROVIDERS = "no model server, URL or store is configured"

FIRST_RETRY_SECONDS = 2.0
"""Delay of the first retry after a failed search. It doubles with each failure, up to the refresh interval."""
POLL_SECONDS = 2.0
"""Interval at which the background thread looks for changed providers and due entries."""
FIRST_SEARCH_SECONDS = 4.0
"""Time that a key's first search waits for slow providers if no other provider has a model."""
_JITTER = 0.2
"""Relative spread of the refresh interval, so that the estimators of a cluster do not ask at the same time."""


@attrs.frozen(eq=False)
class LoadedModel:
    """A model in memory, and the offer that it was loaded from."""

    model: PowerModel
    offer: ModelOffer
    provider: str
    """Name of the provider that made the offer."""
    core_ratio: float | None
    """Cores of this machine ÷ cores of the model's machine; None if either is unknown."""
    loaded_at: float


@attrs.define(eq=False)
class CacheEntry:
    """The model for a key, or the reason why there is none."""

    loaded: LoadedModel | None = None
    problem: str = ""
    searching: bool = True
    """True until the first search is over."""
    search_again_at: float = 0.0
    failures: int = 0
    created_at: float = attrs.field(factory=time.monotonic)
    requested_at: float = attrs.field(factory=time.monotonic)
    """Time of the latest request for this key."""


@attrs.define
class _SearchResult:
    loaded: LoadedModel | None = None
    reasons: list[str] = attrs.field(factory=list)
    """Why providers were passed over."""
    unreachable: bool = False
    """A provider did not answer, or its offer could not be loaded."""
    still_running: bool = False
    """A provider has not answered yet."""


class ModelCache:
    """Maps model keys to loaded models. `entry` never blocks; a background thread does the searching."""

    def __init__(
        self,
        providers: Sequence[ModelProvider],
        *,
        machine_spec: Mapping[str, Any],
        refresh_seconds: float,
        on_search_end: Callable[[], None],
    ) -> None:
        """`on_search_end` is called by the background thread whenever the first search for a key is over."""
        self._providers = tuple(providers)
        self._spec = dict(machine_spec)
        self._refresh = refresh_seconds
        self._on_search_end = on_search_end
        self._entries: dict[ModelKey, CacheEntry] = {}
        self._models: dict[str, LoadedModel] = {}
        """Loaded models by digest: keys that select the same model share it."""
        self._queue: deque[ModelKey] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._search_log = RateLimitedLog(log)
        self._random = random.Random()  # noqa: S311 - for jitter only

    # --- called by the event loop ---

    def entry(self, key: ModelKey) -> CacheEntry:
        """Return the entry of a key. For a new key, queue a search."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.requested_at = time.monotonic()
            return entry
        with self._wake:
            if len(self._queue) >= MAX_QUEUED_KEYS:
                return CacheEntry(problem="too many kinds of requests wait for a model", searching=False)
            while len(self._entries) >= MAX_KEYS:
                self._evict()
            entry = self._entries[key] = CacheEntry()
            self._queue.append(key)
            self._wake.notify()
        return entry

    def _evict(self) -> None:
        """Remove the least recently requested entry, preferably one without a model."""
        without_model = [key for key, entry in self._entries.items() if entry.loaded is None and not entry.searching]
        del self._entries[self._least_recent(without_model or self._entries)]

    def _least_recent(self, keys: Iterable[ModelKey]) -> ModelKey:
        return min(keys, key=lambda key: self._entries[key].requested_at)

    def start(self) -> None:
        """Start the background thread."""
        threading.Thread(target=self._run, name="models", daemon=True).start()

    def stop(self) -> None:
        """Tell the background thread to end after its current search."""
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def entries(self) -> list[tuple[ModelKey, CacheEntry]]:
        """Return all keys with their entries."""
        with self._wake:
            return list(self._entries.items())

    # --- the background thread ---

    def _run(self) -> None:
        self._any_changed()  # reads a store before the first request needs it
        while True:
            with self._wake:
                if not self._queue and not self._stopped:
                    self._wake.wait(POLL_SECONDS)
                if self._stopped:
                    return
                key = self._queue.popleft() if self._queue else None
            try:
                if key is not None:
                    self._search(key)
                else:
                    self._refresh_entries()
            except Exception:
                # A defect of ours must not end the thread: loaded models still need to be refreshed.
                log.exception("the search for models failed")
                if key is not None and (entry := self._entries.get(key)) is not None:
                    entry.problem, entry.searching = "a defect of the estimator; its log says more", False
            if key is not None:
                self._on_search_end()

    def _any_changed(self) -> bool:
        """Return whether the models of any provider may have changed."""
        changed = False
        for provider in self._providers:
            try:
                changed |= provider.changed()
            except Exception as error:
                # a defect with one provider must not keep the others from being asked
                log.debug("%s failed", provider.name, exc_info=True)
                self._search_log.log(f"{provider.name}: a defect: {one_line(error, 200)}", logging.ERROR)
        return changed

    def _refresh_entries(self) -> None:
        changed = self._any_changed()
        now = time.monotonic()
        for key, entry in self.entries():
            if changed or now >= entry.search_again_at:
                try:
                    self._search(key)
                except Exception:
                    # A defect that one key causes must not keep the other entries from being refreshed.
                    log.exception("the search for a model failed")
                    entry.search_again_at = now + self._refresh

    def _search(self, key: ModelKey) -> None:
        """Ask the providers for the model of a key and update its entry."""
        entry = self._entries.get(key)
        if entry is None:
            return
        result = self._ask_providers(key, entry.loaded)
        within_first_search = entry.searching and time.monotonic() < entry.created_at + FIRST_SEARCH_SECONDS
        if result.loaded is None and result.still_running and within_first_search:
            with self._wake:
                self._queue.append(key)
            return
        problem = "; ".join(result.reasons)
        if problem != entry.problem and problem:
            prefix = "no model for" if result.loaded is None else "passed over for"
            self._search_log.log(f"{prefix} {_described(key)}: {problem}")
        entry.problem = problem
        if result.loaded is not None:
            self._use(key, entry, result.loaded)
        elif not result.unreachable:
            # Every provider answered and none has a model any more: the old model would be a wrong answer.
            entry.loaded = None
        entry.failures = entry.failures + 1 if result.unreachable or result.loaded is None else 0
        delay = self._refresh
        if entry.failures:
            delay = min(FIRST_RETRY_SECONDS * 2 ** min(entry.failures - 1, 16), self._refresh)
        entry.search_again_at = time.monotonic() + delay * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        entry.searching = False

    def _ask_providers(self, key: ModelKey, current: LoadedModel | None) -> _SearchResult:
        """Return the first offer that can be loaded, in the order of the providers.

        If the provider of the `current` model is unreachable, the search ends there and keeps that model.
        """
        try:
            request = self._model_request(key)
        except KeplerError as error:
            return _SearchResult(reasons=[str(error)])
        result = _SearchResult()
        for provider in self._providers:
            try:
                result.loaded = self._load(provider, provider.offer(request), current)
                return result
            except NoModelError as error:
                result.reasons.append(str(error))
            except Exception as error:
                result.unreachable = True
                if isinstance(error, KeplerError):
                    result.still_running |= isinstance(error, StillRunningError)
                    result.reasons.append(str(error))
                else:
                    # A defect with one provider, or in a model format's code: the other providers may have a model.
                    log.debug("%s failed", provider.name, exc_info=True)
                    result.reasons.append(f"{provider.name}: a defect: {one_line(error, 200)}")
                if current is not None and current.provider == provider.name:
                    result.loaded = current
                    return result
        result.reasons = result.reasons or [NO_PROVIDERS]
        return result

    def _model_request(self, key: ModelKey) -> ModelRequest:
        return ModelRequest(
            key.output_type,
            tuple(sorted(key.metrics)),
            key.source,
            trainer=key.trainer or None,
            filter=parse_filter(key.filter),
            machine_spec=self._spec,
            portable=True,
        )

    def _load(self, provider: ModelProvider, offer: ModelOffer, current: LoadedModel | None) -> LoadedModel:
        """Return the offered model, from memory if it is loaded already."""
        if current is not None and current.offer.digest == offer.digest:
            return current
        loaded = self._models.get(offer.digest)
        if loaded is None:
            try:
                model = offer.load()
            except KeplerError as error:
                raise ModelError(f"{offer.provider}: {error}") from error
            loaded = LoadedModel(model, offer, provider.name, self._core_ratio(offer), time.time())
            self._models[offer.digest] = loaded
        return loaded

    def _use(self, key: ModelKey, entry: CacheEntry, loaded: LoadedModel) -> None:
        if entry.loaded is loaded:
            return
        before = "" if entry.loaded is None else f" in place of {entry.loaded.offer.name}"
        log.info("%s: %s from %s%s", _described(key), printable(loaded.offer.name), loaded.offer.provider, before)
        if hooks().has_listeners("kepler_model_selected"):
            hooks().call("kepler_model_selected", model=loaded.model.metadata)
        # The event loop reads this attribute without a lock: it sees the old model or the new one.
        entry.loaded = loaded
        self._drop_unused_models()

    def _drop_unused_models(self) -> None:
        """Drop models that no entry uses. While too many are left, evict the least recently requested entry."""
        while True:
            used = {entry.loaded.offer.digest for _, entry in self.entries() if entry.loaded is not None}
            for digest in [digest for digest in self._models if digest not in used]:
                del self._models[digest]
            if len(self._models) <= MAX_MODELS:
                return
            with self._wake:
                del self._entries[self._least_recent(self._entries)]

    def _core_ratio(self, offer: ModelOffer) -> float | None:
        own_cores, model_cores = _cores(self._spec), _cores(offer.machine_spec)
        ratio = float(f"{own_cores / (model_cores or math.inf):.6g}")
        return ratio if ratio > 0 else None


def _cores(machine_spec: Mapping[str, Any]) -> float:
    """Return the number of cores that a description states; 0 if it states none."""
    cores: Any = machine_spec.get("cores")
    is_count = isinstance(cores, int | float) and not isinstance(cores, bool) and 0 < cores < 2**53
    return float(cores) if is_count else 0.0


def _described(key: ModelKey) -> str:
    conditions = "".join(
        f", {name} {quoted(value)}" for name, value in (("trainer", key.trainer), ("filter", key.filter)) if value
    )
    return printable(f"{key.output_type}, {key.source[:60]}{conditions}")
