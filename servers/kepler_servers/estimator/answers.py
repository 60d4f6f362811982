"""From a request's bytes to a reply's."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from kepler_core import __version__
from kepler_core.errors import KeplerError, RequestError
from kepler_core.plugins import registry
from kepler_core.plugins.hooks import events
from kepler_core.selection.sources import matching_sources
from kepler_servers.estimator.counters import Figures
from kepler_servers.estimator.keeper import Entry, ModelKeeper
from kepler_servers.estimator.replies import Reply, failure_reply, watts_reply
from kepler_servers.estimator.request import Command, UnanswerableError, WattsRequest, read_watts_request, read_whole
from kepler_servers.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

_KEPT_SOURCES = 100


@attrs.frozen(eq=False)
class Waiting:
    """A request whose model is being looked for."""

    request: WattsRequest
    entry: Entry

    @property
    def size(self) -> int:
        """Bytes that are held for it."""
        return self.request.values.nbytes


class Answers:
    """Answers requests with the keeper's models."""

    def __init__(self, keeper: ModelKeeper, figures: Figures, *, reply_limit: int, about: Mapping[str, Any]) -> None:
        """`about` is shown in the status."""
        self._keeper = keeper
        self._figures = figures
        self._limit = reply_limit
        self._about = dict(about)
        self._sayer = RateLimitedLog(log)
        self._components: dict[str, tuple[str, ...]] = {}

    def answer(self, body: bytes | bytearray | memoryview) -> bytes | Waiting:
        """The reply to a request's bytes; `Waiting` where its model is not there yet."""
        try:
            return self._answer(read_watts_request(body))
        except UnanswerableError as error:
            return self.refuse(str(error), error.output_type, error.rows, "")

    def answer_whole(self, piece: bytes) -> bytes | Waiting | None:
        """The same for bytes that are most likely one whole request; None if they are not."""
        try:
            found = read_whole(piece)
            return None if found is None else self._answer(found)
        except UnanswerableError as error:
            return self.refuse(str(error), error.output_type, error.rows, "")

    def _answer(self, request: WattsRequest | Command) -> bytes | Waiting:
        if isinstance(request, Command):
            return self._command(request)
        entry = self._keeper.entry(request.key)
        return Waiting(request, entry) if entry.waiting else self.finish(request, entry)

    def finish(self, request: WattsRequest, entry: Entry) -> bytes:
        """The reply to a request whose model is there, or is known not to be."""
        key, loaded = request.key, entry.loaded
        rows = len(request.values)
        if loaded is None:
            reason = "the model is still being looked for" if entry.waiting else entry.problem
            return self.refuse(reason, key.output_type, rows, key.source)
        try:
            watts = loaded.model.watts(request.values, request.metrics)
        except KeplerError as error:
            return self.refuse(str(error), key.output_type, rows, key.source)
        message = ""
        if len(request.invalid):
            self._figures.invalid_rows += len(request.invalid)
            rows_text = "1 row" if len(request.invalid) == 1 else f"{len(request.invalid)} rows"
            message = f"{rows_text} could not be right and got 0 W"
            watts[:, request.invalid] = 0.0
            self._sayer.say(f"{message} (not numbers, negative, infinite, or too large)")
        self._figures.rows += rows
        self._figures.requests["answered"] += 1
        return self._within_limit(
            watts_reply(
                loaded.model.components,
                watts,
                limit=self._limit,
                core_ratio=loaded.core_ratio,
                message=message,
                parts_of_a_whole=key.output_type == "DynPower",
            )
        )

    def refuse(self, reason: str, output_type: str | None, rows: int, source: str) -> bytes:
        """The safest reply that there is to a request that cannot be answered."""
        self._figures.requests["failed"] += 1
        self._sayer.say(f"a request was not answered: {reason}")
        if events().heard("kepler_prediction_failed"):
            events().send("kepler_prediction_failed", reason=reason)
        return self._within_limit(
            failure_reply(reason, output_type, rows, self._components_of(source), limit=self._limit)
        )

    def _within_limit(self, reply: Reply) -> bytes:
        if reply.decimals != 3:
            self._figures.fewer_decimals += 1
        if reply.left_out:
            self._figures.components_left_out += 1
            self._sayer.say(
                f"a reply had no room for {', '.join(reply.left_out)}: more rows than {self._limit} bytes can hold"
            )
        if reply.too_long:
            self._figures.too_long += 1
            self._sayer.say(f"a reply is longer than the {self._limit} bytes that Kepler reads: too many rows")
        return reply.content

    def _components_of(self, source: str) -> tuple[str, ...]:
        """A component of each kind that the client may look for."""
        if source not in self._components:
            if len(self._components) > _KEPT_SOURCES:
                self._components.clear()
            try:
                names = sorted(matching_sources(source, ()))
                found = tuple({registry.energy_sources.preferred(name).components[0]: None for name in names})
            except RequestError:
                found = ("platform", "package")
            self._components[source] = found
        return self._components[source]

    # --- commands ---

    def _command(self, command: Command) -> bytes:
        self._figures.requests["commands"] += 1
        if command.name == "status":
            return msgspec.json.encode(self.status())
        return msgspec.json.encode({"msg": f"unknown command {command.name[:60]!r}; known: status"})

    def status(self) -> dict[str, Any]:
        """What `kepler-model estimator status` shows."""
        figures = self._figures
        now = time.time()
        models = []
        for key, entry in self._keeper.in_use():
            found: dict[str, Any] = {
                "output_type": key.output_type,
                "source": key.source,
                "trainer": key.trainer,
                "filter": key.filter,
                "metrics": sorted(key.metrics),
                "problem": entry.problem,
            }
            if (loaded := entry.loaded) is not None:
                found |= {
                    "model": loaded.offer.name,
                    "origin": loaded.offer.origin,
                    "age_seconds": round(now - loaded.since, 1),
                    "core_ratio": loaded.core_ratio,
                    "mae": loaded.model.metadata.get("mae"),
                    "why": loaded.offer.why,
                }
            models.append(found)
        return {
            "version": __version__,
            "uptime_seconds": round(now - figures.started, 1),
            **self._about,
            "requests": {kind: figures.requests[kind] for kind in ("answered", "failed", "commands")},
            "rows": figures.rows,
            "invalid_rows": figures.invalid_rows,
            "replies_with_fewer_decimals": figures.fewer_decimals,
            "replies_without_all_components": figures.components_left_out,
            "replies_too_long": figures.too_long,
            "connections": figures.connections,
            "dropped_connections": dict(figures.dropped),
            "latency_ms": figures.latency_ms(),
            "models": models,
        }
