"""The list of models in the estimator's status. Its size is limited."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from kepler_core.messages import shortened
from kepler_servers.estimator.explanation import mean_half_widths
from kepler_servers.estimator.model_cache import CacheEntry
from kepler_servers.estimator.request import ModelKey

MAX_STATUS_BYTES = 48 * 2**10
"""Maximum total size of all listed models, as JSON, so that the whole status has less than 64 KiB."""
MAX_LISTED_BYTES = 8 * 2**10
"""Maximum size of the JSON of one model in the list.

If the JSON is larger, it gets no explanation of the model. If it is still larger, it gets no names of metrics either.
"""

_MAX_CHARACTERS = 300
_MAX_LISTED_METRICS = 100


def model_statuses(
    entries: Iterable[tuple[ModelKey, CacheEntry]], now: float, host_name: str
) -> tuple[list[dict[str, Any]], int]:
    """Return the status of the entries in the model cache, and the number of entries that were left out.

    If the size limit is too small for all entries, entries without a model are left out first. Among them, the entries
    that were requested least recently are left out first. The returned list has the order of `entries`. `now` is a Unix
    time. `host_name` is the name of this machine.
    """
    numbered = list(enumerate(entries))
    numbered.sort(key=lambda item: (item[1][1].loaded is not None, item[1][1].requested_at), reverse=True)
    listed: dict[int, dict[str, Any]] = {}
    left = MAX_STATUS_BYTES
    for number, (key, entry) in numbered:
        status, size = _bounded(_status(key, entry, now, host_name))
        if size > left:
            break
        left -= size
        listed[number] = status
    return [listed[number] for number in sorted(listed)], len(numbered) - len(listed)


def _bounded(status: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Shorten a status to about `MAX_LISTED_BYTES` if it is larger.

    Return the status and its size as JSON, in bytes.
    """
    for member, replacement in (("why", {}), ("metrics", [])):
        size = len(msgspec.json.encode(status))
        if size <= MAX_LISTED_BYTES:
            return status, size
        if member in status:
            status[member] = replacement
    return status, len(msgspec.json.encode(status))


def _status(key: ModelKey, entry: CacheEntry, now: float, host_name: str) -> dict[str, Any]:
    status: dict[str, Any] = {
        "output_type": key.output_type,
        "source": shortened(key.source, _MAX_CHARACTERS),
        "trainer": shortened(key.trainer, _MAX_CHARACTERS),
        "filter": shortened(key.filter, _MAX_CHARACTERS),
        "metrics": [shortened(name, _MAX_CHARACTERS) for name in sorted(key.metrics)[:_MAX_LISTED_METRICS]],
        "problem": entry.problem,
    }
    if (loaded := entry.loaded) is not None:
        mae = loaded.model.metadata.get("mae")
        status |= {
            "model": shortened(loaded.offer.name, _MAX_CHARACTERS),
            "origin": shortened(loaded.offer.provider, _MAX_CHARACTERS),
            "age_seconds": round(now - loaded.loaded_at, 1),
            "core_ratio": loaded.core_ratio,
            "mae": mae if isinstance(mae, int | float) else None,
            "twin": shortened(loaded.check.twin_name, _MAX_CHARACTERS) or None,
            "twin_problem": loaded.problem,
            "why": loaded.offer.why,
        }
        if entry.latest is not None and len(entry.latest.watts) == len(loaded.model.components):
            status["mean_half_width"] = mean_half_widths(loaded, entry.latest, host_name)
    return status
