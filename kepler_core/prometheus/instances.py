"""List the instances that a server scrapes, and divide them into shards: groups that one query can name.

An instance is a value of the label that names an exporter, usually `instance`. PromQL has no hash function for labels,
so a query names all instances of its shard: `instance=~"a|b|c"`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote

from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.selections import Selection, promql_string

Shard = tuple[str, ...]
"""The instances of a query. A shard with only the empty text stands for series without the label."""
WITHOUT_LABEL: Shard = ("",)

MAX_MATCHER_BYTES = 4000
"""Maximum length of the instances of a shard in the URL of a request. Many proxies reject URLs of more than 8,000
bytes. VictoriaMetrics by default rejects queries of more than 16,384 bytes."""

_SELECTORS_PER_REQUEST = 8
_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")
"""Characters that have a meaning in regular expressions of Go (RE2). `re.escape` would also escape hyphens, which makes
URLs longer."""


def list_instances(client: PrometheusClient, selections: Sequence[Selection], start: float, end: float) -> list[str]:
    """Return the sorted instances of all series of some selections with samples from `start` to `end` (Unix seconds).

    All selections must have the same `node_label`.
    """
    instances: set[str] = set()
    selectors = [selection.selector() for selection in selections]
    for first in range(0, len(selectors), _SELECTORS_PER_REQUEST):
        batch = selectors[first : first + _SELECTORS_PER_REQUEST]
        instances.update(client.label_values(selections[0].node_label, batch, start, end))
    return sorted(instances - set(WITHOUT_LABEL))


def shards_of(instances: Iterable[str], most: int | None = None) -> list[Shard]:
    """Divide instances into shards of at most `most` instances and `MAX_MATCHER_BYTES` bytes, in the given order."""
    shards: list[Shard] = []
    shard: list[str] = []
    size = 0
    for instance in instances:
        of_instance = len(quote(promql_string(_escaped(instance)))) + len(quote("|"))
        if shard and (len(shard) == most or size + of_instance > MAX_MATCHER_BYTES):
            shards.append(tuple(shard))
            shard, size = [], 0
        shard.append(instance)
        size += of_instance
    if shard:
        shards.append(tuple(shard))
    return shards


def spread_sample(instances: Sequence[str], number: int) -> Shard:
    """Return at most `number` instances, evenly spread over the list."""
    number = min(number, len(instances))
    return tuple(instances[at * len(instances) // number] for at in range(number))


def instance_matcher(label: str, shard: Shard) -> str:
    """Return the PromQL label matcher for the instances of a shard."""
    if len(shard) == 1:
        return f"{label}={promql_string(shard[0])}"
    return f"{label}=~{promql_string('|'.join(map(_escaped, shard)))}"


def _escaped(instance: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", instance)
