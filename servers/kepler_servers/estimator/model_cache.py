"""The cache of loaded models, with one entry per model key. A background thread fills and refreshes the cache."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import attrs

from kepler_core.documents import MAX_NUMBER
from kepler_core.errors import KeplerError, ModelError, NoModelError, path_text
from kepler_core.messages import one_line, printable, quoted, shortened
from kepler_core.models.power_model import PowerModel
from kepler_core.models.twins import CheckedWatts
from kepler_core.plugins.hooks import hooks
from kepler_core.selection import ModelRequest
from kepler_core.selection.filters import parse_filter
from kepler_servers.estimator.loaded_model import LoadedModel, with_twin
from kepler_servers.estimator.model_providers import ModelOffer, ModelProvider, StillRunningError
from kepler_servers.estimator.request import ModelKey
from kepler_servers.estimator.search_delay import search_delay, varied
from kepler_servers.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

MAX_MODELS = 16
"""Maximum number of loaded models, without their twins. If there are more, the cache evicts the entry that was
requested least recently."""
MAX_KEYS = 500
"""Maximum number of cache entries. Entries without a model count too."""
MAX_KEY_BYTES = 4 * 2**20
"""Maximum total size of all model keys. Clients choose the texts in a key, and could otherwise fill the memory."""
MAX_QUEUED_KEYS = 64
"""Maximum number of model keys that wait for their first search. While it is reached, requests with new keys fail."""

MAX_PROBLEM_CHARACTERS = 1000

NO_PROVIDERS = "no model server, URL or store is configured"

POLL_SECONDS = 2.0
"""Interval at which the background thread checks for changed providers and for entries that need a new search."""
FIRST_SEARCH_SECONDS = 4.0
"""Time limit for the first search for a model. Until then, a search without a result is repeated if the call to a slow
provider is still running."""
STOP_SECONDS = 0.5
"""Maximum time that `stop` waits for the background thread, which may itself be waiting for a server."""


@attrs.define(eq=False)
class CacheEntry:
    """The cached model for a model key, or the reason why the key has no model."""

    loaded: LoadedModel | None = None
    problem: str = ""
    searching: bool = True
    """True until the first search for a model is over."""
    search_again_at: float = 0.0
    failures: int = 0
    created_at: float = attrs.field(factory=time.monotonic)
    requested_at: float = attrs.field(factory=time.monotonic)
    """Value of `time.monotonic()` at the latest request with this key."""
    latest: CheckedWatts | None = None
    """The answer to the latest request with this key: its first `explanation.MAX_KEPT_ROWS` rows."""


@attrs.frozen
class _Reason:
    """The reason why the estimator does not use the model of a provider."""

    provider: str
    """Name of the model provider; empty if the reason concerns no provider."""
    document: str
    """Name of the provider, server, URL or key in the provider's error; empty if the error has no such name."""
    text: str


@attrs.define
class _SearchResult:
    loaded: LoadedModel | None = None
    reasons: list[_Reason] = attrs.field(factory=list)
    """The reasons why models of providers are not used, one reason for each provider."""
    unreachable: bool = False
    """Whether a provider did not answer, or a provider's model could not be loaded."""
    still_running: bool = False
    """Whether a call to a slow model provider is still running in the background."""


class ModelCache:
    """Maps model keys to loaded models. `entry` never blocks, because a background thread searches for the models."""

    def __init__(
        self,
        providers: Sequence[ModelProvider],
        *,
        machine_spec: Mapping[str, Any],
        refresh_seconds: float,
        on_search_end: Callable[[], None],
        logs_problems: bool = True,
    ) -> None:
        """The background thread calls `on_search_end` whenever a first search for the model of a key has ended.

        If `logs_problems` is true, the cache logs each key without a model. A caller that reports `CacheEntry.problem`
        itself passes False.
        """
        self._logs_problems = logs_problems
        self._providers = tuple(providers)
        self._spec = dict(machine_spec)
        self._refresh = refresh_seconds
        self._on_search_end = on_search_end
        self._entries: dict[ModelKey, CacheEntry] = {}
        self._key_bytes = 0
        """Total size of all model keys in `_entries`, in bytes."""
        self._models: dict[str, LoadedModel] = {}
        """The loaded models, by digest. If the same model was selected for several model keys, the keys share one
        loaded model."""
        self._queue: deque[ModelKey] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._search_log = RateLimitedLog(log)
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)
        self._random = Random()  # noqa: S311 - for jitter only

    # --- methods that the event loop calls ---

    def entry(self, key: ModelKey) -> CacheEntry:
        """Return the cache entry of a model key. For a new key, add an entry and queue the search for a model."""
        entry = self._entries.get(key)
        if entry is not None:
            entry.requested_at = time.monotonic()
            return entry
        with self._wake:
            if len(self._queue) >= MAX_QUEUED_KEYS:
                return CacheEntry(problem="too many different requests wait for a model", searching=False)
            while len(self._entries) >= MAX_KEYS or (self._entries and self._key_bytes + key.size > MAX_KEY_BYTES):
                self._evict()
            entry = self._entries[key] = CacheEntry()
            self._key_bytes += key.size
            self._queue.append(key)
            self._wake.notify()
        return entry

    def _evict(self) -> None:
        """Remove the entry that was requested least recently, preferably an entry without a model."""
        without_model = [key for key, entry in self._entries.items() if entry.loaded is None and not entry.searching]
        self._remove(self._least_recent(without_model or self._entries))

    def _remove(self, key: ModelKey) -> None:
        del self._entries[key]
        self._key_bytes -= key.size

    def _least_recent(self, keys: Iterable[ModelKey]) -> ModelKey:
        return min(keys, key=lambda key: self._entries[key].requested_at)

    def start(self) -> None:
        """Start the background thread, which searches for models."""
        self._thread.start()

    def stop(self) -> bool:
        """Tell the background thread to end after its current search. Return whether it ended in time."""
        with self._wake:
            self._stopped = True
            self._wake.notify()
        self._thread.join(STOP_SECONDS)
        return not self._thread.is_alive()

    def entries(self) -> list[tuple[ModelKey, CacheEntry]]:
        """Return all model keys with their cache entries."""
        with self._wake:
            return list(self._entries.items())

    # --- methods that the background thread calls ---

    def _run(self) -> None:
        self._any_changed()  # the call also makes the provider of the model store read the store
        while True:
            with self._wake:
                if not self._queue and not self._stopped:
                    # without the variation, estimators that started together would always ask at the same time
                    self._wake.wait(varied(POLL_SECONDS, self._random))
                if self._stopped:
                    return
                key = self._queue.popleft() if self._queue else None
            try:
                if key is not None:
                    self._search(key)
                else:
                    self._refresh_entries()
            except Exception:
                # A defect of the estimator must not end the thread: loaded models still need to be refreshed.
                log.exception("the search for models failed")
                if key is not None and (entry := self._entries.get(key)) is not None:
                    entry.problem, entry.searching = "a defect of the estimator; its log says more", False
            if key is not None:
                self._on_search_end()

    def _any_changed(self) -> bool:
        """Return whether the models of at least one provider may have changed."""
        changed = False
        for provider in self._providers:
            try:
                changed |= provider.changed()
            except Exception as error:
                # If the code of one provider has a defect, the other providers must still be asked.
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
                    # If an error occurs for one key, the entries of other keys must still be refreshed.
                    log.exception("the search for a model failed")
                    entry.search_again_at = now + self._refresh

    def _search(self, key: ModelKey) -> None:
        """Ask the providers for a model for the key, and update the key's cache entry."""
        entry = self._entries.get(key)
        if entry is None:
            return
        result = self._ask_providers(key, entry.loaded)
        within_first_search = entry.searching and time.monotonic() < entry.created_at + FIRST_SEARCH_SECONDS
        if result.loaded is None and result.still_running and within_first_search:
            with self._wake:
                self._queue.append(key)
            return
        problem = shortened(_joined(result.reasons), MAX_PROBLEM_CHARACTERS)
        if problem != entry.problem and problem and self._logs_problems:
            prefix = "no model for" if result.loaded is None else "passed over for"
            self._search_log.log(f"{prefix} {_described(key)}: {problem}")
        entry.problem = problem
        if result.loaded is not None:
            self._use(key, entry, result.loaded)
        elif not result.unreachable:
            # All providers have answered, and no provider has a model for this key any more. So the old model
            # must no longer be used.
            entry.loaded = None
        entry.failures = entry.failures + 1 if result.unreachable or result.loaded is None else 0
        entry.search_again_at = time.monotonic() + search_delay(entry.failures, self._refresh, self._random)
        entry.searching = False

    def _ask_providers(self, key: ModelKey, current: LoadedModel | None) -> _SearchResult:
        """Ask one provider after the other, until an offered model can be loaded.

        If the provider of the `current` model cannot be reached, the result is the current model. The search then does
        not ask the remaining providers.
        """
        try:
            request = self._model_request(key)
        except KeplerError as error:
            return _SearchResult(reasons=[_reason("", error)])
        result = _SearchResult()
        for provider in self._providers:
            try:
                result.loaded = self._load(provider, provider.offer(request))
                return result
            except NoModelError as error:
                result.reasons.append(_reason(provider.name, error))
            except Exception as error:
                result.unreachable = True
                if isinstance(error, KeplerError):
                    result.still_running |= isinstance(error, StillRunningError)
                    result.reasons.append(_reason(provider.name, error))
                else:
                    # The code of the provider or of a model format has a defect. Another provider may have a model.
                    log.debug("%s failed", provider.name, exc_info=True)
                    defect = f"a defect: {one_line(error, 200)}"
                    result.reasons.append(_Reason(provider.name, provider.name, defect))
                if current is not None and current.provider == provider.name:
                    result.loaded = current
                    return result
        result.reasons = result.reasons or [_Reason("", "", NO_PROVIDERS)]
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

    def _load(self, provider: ModelProvider, offer: ModelOffer) -> LoadedModel:
        """Load the offered model unless it is in memory already. Return it as a `LoadedModel`."""
        core_ratio = self._core_ratio(offer)
        loaded = self._models.get(offer.digest)
        try:
            model = offer.load() if loaded is None else loaded.model
        except KeplerError as error:
            raise ModelError(str(error), document=offer.provider) from error
        kept = offer.without_files()
        if loaded is not None and not loaded.problem:
            return attrs.evolve(loaded, offer=kept, provider=provider.name, core_ratio=core_ratio)
        # A twin that could not be loaded before may be available now.
        loaded_at = time.time() if loaded is None else loaded.loaded_at
        check = with_twin(model, offer, self._models_and_twins())
        loaded = LoadedModel(model, kept, provider.name, core_ratio, loaded_at, check)
        if loaded.problem:
            self._search_log.log(f"{printable(offer.name)} is used without a check by its twin: {loaded.problem}")
        self._models[offer.digest] = loaded
        return loaded

    def _models_and_twins(self) -> dict[str, PowerModel]:
        """Return all models in memory by digest: loaded models, and the twins of loaded models."""
        models = {digest: loaded.model for digest, loaded in self._models.items()}
        for loaded in self._models.values():
            if (twin := loaded.check.twinned.twin) is not None:
                models.setdefault(loaded.check.twin_digest, twin)
        return models

    def _use(self, key: ModelKey, entry: CacheEntry, loaded: LoadedModel) -> None:
        current = entry.loaded
        if current is not None and current.model is loaded.model and current.offer.is_logged_as(loaded.offer):
            entry.loaded = loaded  # the offer may have a new explanation or twin
            return
        before = "" if current is None else f" in place of {current.offer.name}"
        log.info("%s: %s from %s%s", _described(key), printable(loaded.offer.name), loaded.offer.provider, before)
        if loaded.offer.remark:
            self._search_log.log(f"{loaded.offer.provider}: {loaded.offer.remark}")
        if hooks().has_listeners("kepler_model_selected"):
            hooks().call("kepler_model_selected", model=loaded.model.metadata)
        entry.latest = None
        # The event loop reads `entry.loaded` without a lock: it sees either the old model or the new model.
        entry.loaded = loaded
        self._drop_unused_models()

    def _drop_unused_models(self) -> None:
        """Drop the models that no cache entry uses.

        While more than `MAX_MODELS` models are left, evict the entry that was requested least recently.
        """
        while True:
            used = {entry.loaded.offer.digest for _, entry in self.entries() if entry.loaded is not None}
            for digest in [digest for digest in self._models if digest not in used]:
                del self._models[digest]
            if len(self._models) <= MAX_MODELS:
                return
            with self._wake:
                self._remove(self._least_recent(self._entries))

    def _core_ratio(self, offer: ModelOffer) -> float | None:
        own_cores, model_cores = _cores(self._spec), _cores(offer.machine_spec)
        ratio = float(f"{own_cores / (model_cores or math.inf):.6g}")
        return ratio if ratio > 0 else None


def _cores(machine_spec: Mapping[str, Any]) -> float:
    """Return the number of cores in a machine description; 0 if the description has no valid number."""
    cores: Any = machine_spec.get("cores")
    is_count = isinstance(cores, int | float) and not isinstance(cores, bool) and 0 < cores < MAX_NUMBER
    return float(cores) if is_count else 0.0


def _reason(provider: str, error: KeplerError) -> _Reason:
    text = ": ".join(part for part in (path_text(error.path), error.message) if part)
    return _Reason(provider, error.document, text)


def _joined(reasons: Sequence[_Reason]) -> str:
    """Join reasons into one text. If there are several reasons, each begins with the name of a provider, server or key.

    If several providers have the same reason, the text has the reason once, after the names of these providers.
    """
    names: dict[str, dict[str, None]] = {}
    for reason in reasons:
        name = reason.document or (reason.provider if len(reasons) > 1 else "")
        names.setdefault(reason.text, {})[name] = None
    return "; ".join(": ".join(part for part in (", ".join(names[text]), text) if part) for text in names)


def _described(key: ModelKey) -> str:
    conditions = "".join(
        f", {name} {quoted(value)}" for name, value in (("trainer", key.trainer), ("filter", key.filter)) if value
    )
    return printable(f"{key.output_type}, {key.source[:60]}{conditions}")
