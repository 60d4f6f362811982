"""Divide the instances of a fleet into groups of hosts whose samples can be fetched and observed one after another."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from kepler_core.prometheus.client import PrometheusClient
from kepler_core.prometheus.fetching import JOBS
from kepler_core.prometheus.instances import WITHOUT_LABEL, Shard, list_instances
from kepler_core.prometheus.queries import plan_queries
from kepler_core.prometheus.selections import Selection
from kepler_core.prometheus.sharding import instance_bytes
from kepler_core.recording.exporters import host_of
from kepler_core.recording.schemas import find_schemas

log = logging.getLogger(__name__)

GROUP_BYTES = 16 * 2**20
"""Size of the answers for a group that is aimed at, in bytes of JSON for all metrics together."""
FEW_INSTANCES = 64
"""At most this number of instances are one group."""
_COMMON_HOSTS = 0.9
"""Minimum fraction of each metric's hosts that must have energy metrics, too."""


def host_groups(
    client: PrometheusClient,
    selections: Sequence[Selection],
    span: tuple[float, float],
    step: float | None,
    *,
    jobs: int = JOBS,
    stop: threading.Event | None = None,
) -> list[Shard | None]:
    """Return groups of instances, so that all instances of a host are in one group. None stands for all instances.

    `span` is the queried time range in Unix seconds, `step` the seconds between samples; None for samples as scraped.

    Exporters on one machine are recognised by the host in their instance. If the exporters of usage and of energy have
    different hosts, only observing all samples together can join them (`kepler_core.recording.exporters`). Then all
    instances are one group.
    """
    labels = {selection.node_label for selection in selections}
    all_instances = list_instances(client, selections, *span) if len(labels) == 1 else []
    if len(all_instances) <= FEW_INSTANCES:
        return [None]
    of_selection = {selection: list_instances(client, [selection], *span) for selection in selections}
    if not _share_hosts(of_selection):
        log.warning(
            "the samples of all %d instances are fetched at once, because usage and energy come from different hosts",
            len(all_instances),
        )
        return [None]
    instances = {next(iter(labels)): all_instances}
    sizes = instance_bytes(client, selections, instances, span, step, jobs=jobs, stop=stop)
    n_queries = len(plan_queries(selections, *span, step)) / len(selections)
    of_instance = max(n_queries * sum(sizes.values()), 1.0)
    return [*_grouped(all_instances, max(int(GROUP_BYTES / of_instance), 1)), WITHOUT_LABEL]


def _share_hosts(instances: Mapping[Selection, Sequence[str]]) -> bool:
    """Return whether nearly all hosts of each metric have energy metrics."""
    uses = find_schemas(selection.metric for selection in instances)
    hosts = {selection: {host_of(instance) for instance in of_metric} for selection, of_metric in instances.items()}
    with_energy: set[str] = set()
    for selection, of_metric in hosts.items():
        if any(mapping.kind in ("energy", "power") for mapping in uses.mappings(selection.metric)):
            with_energy |= of_metric
    return all(len(of_metric & with_energy) >= _COMMON_HOSTS * len(of_metric) for of_metric in hosts.values())


def _grouped(instances: Sequence[str], number: int) -> list[Shard]:
    """Return groups of at least `number` instances, with all instances of each host."""
    by_host: dict[str, list[str]] = {}
    for instance in instances:
        by_host.setdefault(host_of(instance), []).append(instance)
    groups: list[Shard] = []
    group: list[str] = []
    for of_host in by_host.values():
        group += of_host
        if len(group) >= number:
            groups.append(tuple(group))
            group = []
    return [*groups, tuple(group)] if group else groups
