"""Choose the number of instances in a query by the size of the answers, so that each answer fits into memory.

A fleet's series of one metric and hour are more than servers return in one answer. Before the queries are planned, the
series of a few instances are queried, and the number of instances in a query follows from the size of these answers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.fetching import JOBS, answers
from kepler_core.prometheus.instances import WITHOUT_LABEL, Shard, list_instances, shards_of, spread_sample
from kepler_core.prometheus.queries import Query, plan_queries
from kepler_core.prometheus.selections import Selection

TARGET_BYTES = 8 * 2**20
"""Size of the answers that are aimed at, in bytes of JSON. Each parallel request needs about five times this memory.

Answers may be larger than estimated: `transport.MAX_ANSWER_BYTES`, the limit, is 16 times as high.
"""
FEW_INSTANCES = 16
"""The queries for at most this number of instances are not divided, unless the server rejects them."""
_MEASURED_INSTANCES = 8
_INTERVAL_INSTANCES = 64
"""If there are more instances, the scrape interval is found from this number of instances."""

Shards = Mapping[Selection, Sequence[Shard | None]]
"""The shards of each selection. None stands for all instances."""


def instances_by_label(
    client: PrometheusClient, selections: Sequence[Selection], start: float, end: float
) -> dict[str, list[str]]:
    """Return the instances of some selections between two times in Unix seconds, by the label that names them."""
    by_label: dict[str, list[Selection]] = {}
    for selection in selections:
        by_label.setdefault(selection.node_label, []).append(selection)
    return {label: list_instances(client, of_label, start, end) for label, of_label in by_label.items()}


def sample_of_many(instances: Mapping[str, Sequence[str]]) -> Shard | None:
    """Return the instances whose scrape interval stands for all of `instances`; None if there are only few instances.

    If several labels name instances, the result is None, because the sample would be of one label only.
    """
    of_label = next(iter(instances.values()), ())
    if len(instances) != 1 or len(of_label) <= _INTERVAL_INSTANCES:
        return None
    return spread_sample(of_label, _INTERVAL_INSTANCES)


def choose_shards(
    client: PrometheusClient,
    selections: Sequence[Selection],
    instances: Mapping[str, Sequence[str]],
    span: tuple[float, float],
    step: float | None,
    *,
    most: int | None = None,
    jobs: int = JOBS,
) -> dict[Selection, list[Shard | None]]:
    """Return the shards of each selection.

    `instances` is the result of `instances_by_label`. `span` is the queried time range in Unix seconds, `step` the
    seconds between samples; None for samples as scraped. `most` is the number of instances in a query; None chooses
    the number by the size of the answers (see `TARGET_BYTES`).
    """
    many = FEW_INSTANCES if most is None else most
    divided = [selection for selection in selections if len(instances[selection.node_label]) > many]
    sizes = {} if most is not None else instance_bytes(client, divided, instances, span, step, jobs=jobs)
    chosen: dict[Selection, list[Shard | None]] = {selection: [None] for selection in selections}
    for selection in divided:
        names = instances[selection.node_label]
        size = sizes.get(selection)
        number = int(max(TARGET_BYTES / size, 1)) if size else most
        if number is None or number < len(names):
            chosen[selection] = [*shards_of(names, number), WITHOUT_LABEL]
    return chosen


def instance_bytes(
    client: PrometheusClient,
    selections: Sequence[Selection],
    instances: Mapping[str, Sequence[str]],
    span: tuple[float, float],
    step: float | None,
    *,
    jobs: int = JOBS,
    stop: threading.Event | None = None,
) -> dict[Selection, float]:
    """Return the mean size of the answer for one instance, in bytes, for the last query of the time range.

    The size is 0 if the queried instances have no samples of the selection in this range.
    """
    queries = []
    for selection in selections:
        sample = spread_sample(instances[selection.node_label], _MEASURED_INSTANCES)
        longest = max(plan_queries([selection], *span, step), key=lambda query: query.end - query.start)
        length = longest.end - longest.start
        end = round(span[1] * 1000)
        queries.append(Query(selection, end - length, end, longest.step, sample))
    sizes: dict[Selection, float] = {}
    for query, results in answers(client, queries, jobs=jobs, stop=stop):
        n_bytes = sum(len(result) for result in results if result != b"[]")
        sizes[query.selection] = n_bytes / len(query.instances or WITHOUT_LABEL)
    return sizes
