"""The models that are in use: found in the background, kept, and renewed."""

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
from kepler_core.models.power_model import PowerModel
from kepler_core.plugins.hooks import events
from kepler_core.selection import ModelRequest
from kepler_core.selection.filters import parse_filter
from kepler_servers.estimator.origins import NotYetError, Offer, Origin
from kepler_servers.estimator.request import ModelKey
from kepler_servers.rate_limited_log import RateLimitedLog, printable

log = logging.getLogger(__name__)

MOST_MODELS = 16
"""So many loaded models are kept; the one that was not asked for longest makes room."""
MOST_KEYS = 500
MOST_WAITING = 64
"""So many kinds of requests may wait for a model at once."""

NOWHERE = "nowhere to get models from: no model server, URL or store is configured"

FIRST_WAIT_SECONDS = 2.0
LOOK_SECONDS = 2.0
_JITTER = 0.2
FIRST_SEARCH_SECONDS = 4.0
"""So long a first search waits for an origin that is slow, where no other one has a model."""


@attrs.frozen(eq=False)
class Loaded:
    """A model in use."""

    model: PowerModel
    offer: Offer
    asked: str
    """The origin that offered it."""
    core_ratio: float | None
    since: float


@attrs.define(eq=False)
class Entry:
    """What is known for one key."""

    loaded: Loaded | None = None
    problem: str = ""
    waiting: bool = True
    """The first search is not over."""
    again_at: float = 0.0
    failures: int = 0
    since: float = attrs.field(factory=time.monotonic)
    used_at: float = attrs.field(factory=time.monotonic)
    """When it was asked for last."""


class ModelKeeper:
    """Models by what was asked for. `entry` returns at once; a thread of the keeper's does the rest."""

    def __init__(
        self,
        origins: Sequence[Origin],
        *,
        machine_spec: Mapping[str, Any],
        refresh_seconds: float,
        found: Callable[[], None],
    ) -> None:
        """`found` is called from another thread whenever an entry is no longer waiting."""
        self._origins = tuple(origins)
        self._spec = dict(machine_spec)
        self._refresh = refresh_seconds
        self._found = found
        self._entries: dict[ModelKey, Entry] = {}
        self._models: dict[str, Loaded] = {}
        self._todo: deque[ModelKey] = deque()
        self._wake = threading.Condition()
        self._stopped = False
        self._sayer = RateLimitedLog(log)
        self._random = random.Random()  # noqa: S311 - spreads the nodes' requests, nothing else

    # --- called by the loop ---

    def entry(self, key: ModelKey) -> Entry:
        """What there is for a key; it is searched for if it is new."""
        found = self._entries.get(key)
        if found is not None:
            found.used_at = time.monotonic()
            return found
        with self._wake:
            if len(self._todo) >= MOST_WAITING:
                return Entry(problem="too many kinds of requests are waiting for a model", waiting=False)
            while len(self._entries) >= MOST_KEYS:
                self._evict()
            found = self._entries[key] = Entry()
            self._todo.append(key)
            self._wake.notify()
        return found

    def _evict(self) -> None:
        """Make room: of those without a model, else of all, the one that was not asked for longest."""
        without = [key for key, entry in self._entries.items() if entry.loaded is None and not entry.waiting]
        del self._entries[self._longest_unused(without or self._entries)]

    def _longest_unused(self, keys: Iterable[ModelKey]) -> ModelKey:
        return min(keys, key=lambda key: self._entries[key].used_at)

    def start(self) -> None:
        threading.Thread(target=self._run, name="models", daemon=True).start()

    def stop(self) -> None:
        with self._wake:
            self._stopped = True
            self._wake.notify()

    def in_use(self) -> list[tuple[ModelKey, Entry]]:
        """All entries, for the status."""
        with self._wake:
            return list(self._entries.items())

    # --- the keeper's thread ---

    def _run(self) -> None:
        for origin in self._origins:
            origin.changed()  # a store is read before somebody asks
        while True:
            with self._wake:
                if not self._todo and not self._stopped:
                    self._wake.wait(LOOK_SECONDS)
                if self._stopped:
                    return
                key = self._todo.popleft() if self._todo else None
            try:
                if key is not None:
                    self._search(key)
                else:
                    self._renew()
            except Exception:
                # a defect of ours: the models that are loaded still answer
                log.exception("looking for models failed")
                if key is not None and (entry := self._entries.get(key)) is not None:
                    entry.problem, entry.waiting = "a defect of the estimator; its log says more", False
            if key is not None:
                self._found()

    def _renew(self) -> None:
        changed = False
        for origin in self._origins:
            changed |= origin.changed()
        now = time.monotonic()
        for key, entry in self.in_use():
            if changed or now >= entry.again_at:
                try:
                    self._search(key)
                except Exception:
                    # a defect of ours with one kind of request must not keep the others from being renewed
                    log.exception("looking for a model failed")
                    entry.again_at = now + self._refresh

    def _search(self, key: ModelKey) -> None:
        entry = self._entries.get(key)
        if entry is None:
            return
        found, passed, unreachable, pending = self._find(key, entry.loaded)
        if pending and found is None and entry.waiting and time.monotonic() < entry.since + FIRST_SEARCH_SECONDS:
            with self._wake:
                self._todo.append(key)
            return
        problem = "; ".join(passed)
        if problem != entry.problem and problem:
            what = "no model for" if found is None else "passed over for"
            self._sayer.say(f"{what} {_described(key)}: {problem}")
        entry.problem = problem
        if found is not None:
            self._use(key, entry, found)
        elif not unreachable:
            entry.loaded = None  # those who were asked have none: an old one would be a wrong answer
        entry.failures = entry.failures + 1 if unreachable or found is None else 0
        wait = self._refresh
        if entry.failures:
            wait = min(FIRST_WAIT_SECONDS * 2 ** min(entry.failures - 1, 16), self._refresh)
        entry.again_at = time.monotonic() + wait * self._random.uniform(1 - _JITTER, 1 + _JITTER)
        entry.waiting = False

    def _find(self, key: ModelKey, loaded: Loaded | None) -> tuple[Loaded | None, list[str], bool, bool]:
        """The first model that is offered and can be loaded; why others were passed over; whether one
        of them could not be asked; whether one is still to answer."""
        passed: list[str] = []
        unreachable = pending = False
        try:
            request = ModelRequest(
                key.output_type,
                tuple(sorted(key.metrics)),
                key.source,
                trainer=key.trainer or None,
                filter=parse_filter(key.filter),
                machine_spec=self._spec,
                portable=True,
            )
        except KeplerError as error:
            return None, [str(error)], False, False
        for origin in self._origins:
            try:
                return self._loaded(origin, origin.offer(request), loaded), passed, unreachable, pending
            except NoModelError as error:
                passed.append(str(error))
            except KeplerError as error:
                # it does not answer, or what it offers cannot be loaded: perhaps that is mended later
                unreachable = True
                pending |= isinstance(error, NotYetError)
                passed.append(str(error))
                if loaded is not None and loaded.asked == origin.name:
                    return loaded, passed, unreachable, pending
        return None, passed or [NOWHERE], unreachable, pending

    def _loaded(self, origin: Origin, offer: Offer, loaded: Loaded | None) -> Loaded:
        if loaded is not None and loaded.offer.digest == offer.digest:
            return loaded
        found = self._models.get(offer.digest)
        if found is None:
            try:
                model = offer.load()
            except KeplerError as error:
                raise ModelError(f"{offer.origin}: {error}") from error
            found = Loaded(model, offer, origin.name, self._core_ratio(offer), time.time())
            self._models[offer.digest] = found
        return found

    def _use(self, key: ModelKey, entry: Entry, found: Loaded) -> None:
        if entry.loaded is found:
            return
        before = "" if entry.loaded is None else f" in place of {entry.loaded.offer.name}"
        log.info("%s: %s from %s%s", _described(key), printable(found.offer.name), found.offer.origin, before)
        if events().heard("kepler_model_selected"):
            events().send("kepler_model_selected", model=found.model.metadata)
        entry.loaded = found  # one assignment: whoever predicts has the old one or the new one
        self._forget()

    def _forget(self) -> None:
        """Let go of models that nobody refers to, then of the longest unused."""
        while True:
            used = {entry.loaded.offer.digest for _, entry in self.in_use() if entry.loaded is not None}
            for digest in [digest for digest in self._models if digest not in used]:
                del self._models[digest]
            if len(self._models) <= MOST_MODELS:
                return
            with self._wake:
                del self._entries[self._longest_unused(self._entries)]

    def _core_ratio(self, offer: Offer) -> float | None:
        mine, theirs = self._spec.get("cores"), offer.machine_spec.get("cores")
        ratio = float(f"{_count(mine) / (_count(theirs) or math.inf):.6g}")
        return ratio if ratio > 0 else None


def _count(value: Any) -> float:
    """A number of cores; 0 where it is not known."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 2**53
    return float(value) if known else 0.0


def _described(key: ModelKey) -> str:
    more = "".join(
        f", {what} {value[:60]!r}" for what, value in (("trainer", key.trainer), ("filter", key.filter)) if value
    )
    return printable(f"{key.output_type}, {key.source[:60]}{more}")
