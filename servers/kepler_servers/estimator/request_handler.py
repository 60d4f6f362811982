"""The request handler: it gets the bytes of a request, and returns the bytes of the reply."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core import __version__
from kepler_core.errors import KeplerError, RequestError
from kepler_core.messages import one_line, quoted
from kepler_core.models.power_model import any_true
from kepler_core.models.twins import CheckedWatts
from kepler_core.plugins import registry
from kepler_core.plugins.hooks import hooks
from kepler_core.selection.sources import matching_sources
from kepler_servers.estimator.counters import Counters
from kepler_servers.estimator.explanation import explain, kept
from kepler_servers.estimator.loaded_model import LoadedModel
from kepler_servers.estimator.model_cache import CacheEntry, ModelCache
from kepler_servers.estimator.replies import Reply, failure_reply, watts_reply, with_explanation
from kepler_servers.estimator.request import (
    Command,
    InvalidRequestError,
    WattsRequest,
    decode_strictly,
    read_watts_request,
    without_dead_features,
)
from kepler_servers.estimator.status import model_statuses
from kepler_servers.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

MAX_CACHED_SOURCES = 100
"""Maximum number of names of energy sources whose components are cached. Clients choose the names, and could fill the
memory with them."""


@attrs.frozen(eq=False)
class PendingRequest:
    """A request that waits for the first search for its model."""

    request: WattsRequest
    entry: CacheEntry

    @property
    def size(self) -> int:
        """Size of the request's values in memory, in bytes."""
        return self.request.values.nbytes


class RequestHandler:
    """Answers requests with the models of a model cache."""

    def __init__(
        self,
        cache: ModelCache,
        counters: Counters,
        *,
        reply_limit: int,
        about: Mapping[str, Any],
        host_name: str = "",
    ) -> None:
        """`reply_limit` is the maximum length of a reply in bytes; 0 means no limit. `about` has keys and values that
        are added to the estimator's status. `host_name` is the name of this machine; empty if it is not known."""
        self._host_name = host_name
        self._cache = cache
        self._counters = counters
        self._limit = reply_limit
        self._about = dict(about)
        self._request_log = RateLimitedLog(log)
        self._components: dict[str, tuple[str, ...]] = {}

    def answer(self, body: bytes | bytearray | memoryview) -> bytes | PendingRequest:
        """Return the reply to a complete request, or a `PendingRequest` if the request must wait for its model."""
        try:
            return self._answer(read_watts_request(body))
        except InvalidRequestError as error:
            return self.refuse(str(error), error.output_type, error.rows, "")

    def answer_if_complete(self, piece: bytes) -> bytes | PendingRequest | None:
        """Answer a request as `answer` does; return None if `piece` is not exactly one complete request."""
        try:
            request = decode_strictly(piece)
            return None if request is None else self._answer(request)
        except InvalidRequestError as error:
            return self.refuse(str(error), error.output_type, error.rows, "")

    def _answer(self, request: WattsRequest | Command) -> bytes | PendingRequest:
        if isinstance(request, Command):
            return self._run_command(request)
        request = without_dead_features(request)
        if request.dead:
            self._counters.dead_features[", ".join(request.dead)] += 1
            self._request_log.log(f"{request.key.output_type} requests with dead features: {request.remark}")
        entry = self._cache.entry(request.key)
        return PendingRequest(request, entry) if entry.searching else self.finish(request, entry)

    def finish(self, request: WattsRequest, entry: CacheEntry) -> bytes:
        """Return the reply to a request, from the model in its cache entry. Do not wait for the search for a model.

        If the entry has no model, or an error occurs, the reply to a DynPower request has a zero for each
        row: Kepler panics if a reply has fewer values than rows.
        """
        try:
            return self._finish(request, entry)
        except Exception as error:
            log.debug("a request failed", exc_info=True)
            reason = f"a defect of the estimator: {one_line(error, 200)}"
            return self.refuse(reason, request.key.output_type, len(request.values), request.key.source)

    def _finish(self, request: WattsRequest, entry: CacheEntry) -> bytes:
        key, loaded = request.key, entry.loaded
        rows = len(request.values)
        if loaded is None:
            reason = "the search for a model is not over yet" if entry.searching else entry.problem
            reason = f"{request.remark}; {reason}" if request.dead else reason
            return self.refuse(reason, key.output_type, rows, key.source)
        try:
            checked = loaded.check.twinned.watts(request.values, request.metrics)
        except KeplerError as error:
            return self.refuse(str(error), key.output_type, rows, key.source)
        message = request.remark
        if len(request.invalid):
            self._counters.invalid_rows += len(request.invalid)
            rows_text = "1 row" if len(request.invalid) == 1 else f"{len(request.invalid)} rows"
            problem = f"{rows_text} got 0 W because of invalid values"
            message = f"{problem}; {message}" if message else problem
            checked.watts[:, request.invalid] = 0.0
            checked.outside[request.invalid] = checked.disagrees[request.invalid] = False
            self._request_log.log(f"{problem} (not numbers, negative, infinite or too large)")
        self._counters.rows += rows
        self._counters.requests["answered"] += 1
        self._count_doubtful_rows(request, loaded, checked)
        if loaded.check.honesty is not None:
            entry.latest = kept(checked)
        reply = watts_reply(
            loaded.model.components,
            checked.watts,
            # Kepler never requests an explanation. Clients that request one can read a reply of any length.
            limit=0 if request.explain else self._limit,
            core_ratio=loaded.core_ratio,
            message=message,
            remark=loaded.offer.remark,
            keep_sums=key.output_type == "DynPower",
            turn=self._counters.requests["answered"],
        )
        if request.explain:
            reply = with_explanation(reply, explain(loaded, checked, self._host_name))
        return self._count(reply)

    def _count_doubtful_rows(self, request: WattsRequest, loaded: LoadedModel, checked: CheckedWatts) -> None:
        """Count and log the rows outside the range of the training, and the rows that the twin answered.

        A row in which all features are 0 does not count as outside the range. Kepler sends such rows to request the
        idle power.
        """
        if any_true(checked.outside):
            used = np.logical_or.reduce(request.values, axis=1)
            if outside := int(np.count_nonzero(checked.outside & used)):
                self._counters.rows_outside += outside
                self._request_log.log(f"{loaded.offer.name}: rows outside the range of its training")
        if any_true(checked.disagrees):
            self._counters.disagreements += int(np.count_nonzero(checked.disagrees))
            self._request_log.log(
                f"{loaded.offer.name}: rows are answered by the twin {loaded.check.twin_name} instead"
            )

    def refuse(self, reason: str, output_type: str | None, rows: int, source: str) -> bytes:
        """Log why a request cannot be answered, count it as failed, and return the reply that is safest for Kepler."""
        self._counters.requests["failed"] += 1
        self._request_log.log(f"a request was not answered: {reason}")
        if hooks().has_listeners("kepler_prediction_failed"):
            hooks().call("kepler_prediction_failed", reason=reason)
        return self._count(failure_reply(reason, output_type, rows, self._components_of(source), limit=self._limit))

    def _count(self, reply: Reply) -> bytes:
        """Return the bytes of a reply. Count shortened replies, and replies that still exceed the limit of bytes."""
        if reply.decimals != 3:
            self._counters.fewer_decimals += 1
        if reply.left_out:
            self._counters.components_left_out += 1
            self._request_log.log(
                f"a reply had no room for {', '.join(reply.left_out)}: more rows than {self._limit} bytes can hold"
            )
        if reply.too_long:
            self._counters.too_long += 1
            self._request_log.log(f"a reply is longer than the {self._limit} bytes that Kepler reads: too many rows")
        return reply.content

    def _components_of(self, source: str) -> tuple[str, ...]:
        """Return the components that the reply to a failed request must have. The reply states 0 W for each of them.

        The name `source` may stand for several energy sources. Kepler reads the first component of one of these
        sources, such as `package` or `platform`. So the result has the first component of each source.
        """
        if source not in self._components:
            if len(self._components) > MAX_CACHED_SOURCES:
                self._components.clear()
            try:
                names = sorted(matching_sources(source, ()))
                components = tuple({registry.energy_sources.preferred(name).components[0]: None for name in names})
            except RequestError:
                components = ("platform", "package")
            self._components[source] = components
        return self._components[source]

    # --- commands ---

    def _run_command(self, command: Command) -> bytes:
        self._counters.requests["commands"] += 1
        if command.name == "status":
            return msgspec.json.encode(self.status())
        return msgspec.json.encode({"msg": f"unknown command {quoted(command.name)}; known: status"})

    def status(self) -> dict[str, Any]:
        """Return the estimator's status, which `kepler-model estimator status` shows; less than 64 KiB as JSON."""
        counters = self._counters
        now = time.time()
        models, left_out = model_statuses(self._cache.entries(), now, self._host_name)
        return {
            "version": __version__,
            "uptime_seconds": round(now - counters.started, 1),
            **self._about,
            "requests": {outcome: counters.requests[outcome] for outcome in ("answered", "failed", "commands")},
            "rows": counters.rows,
            "invalid_rows": counters.invalid_rows,
            "rows_outside": counters.rows_outside,
            "disagreements": counters.disagreements,
            "dead_features": dict(counters.dead_features),
            "replies_with_fewer_decimals": counters.fewer_decimals,
            "replies_without_all_components": counters.components_left_out,
            "replies_too_long": counters.too_long,
            "connections": counters.connections,
            "dropped_connections": dict(counters.dropped),
            "latency_ms": counters.latency_ms(),
            "models": models,
            "models_left_out": left_out,
        }
