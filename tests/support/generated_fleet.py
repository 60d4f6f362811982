"""A server with the HTTP API of Prometheus that generates the samples of a fleet when they are queried.

Each node has some containers and one socket. All nodes with the same variant (the number of the node modulo `VARIANTS`)
have the same values and scrape times, so that answers are generated quickly.
"""

from __future__ import annotations

import functools
import gzip
import json
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import numpy as np

from support.prometheus_process import Reply

START = 1_700_000_000
USAGE = ("kepler_container_bpf_cpu_time_ms_total", "kepler_container_cpu_cycles_total")
ENERGY = "kepler_node_package_joules_total"
VARIANTS = 16
_MATCHER = re.compile(r'instance(=~|=)"((?:[^"\\]|\\.)*)"')


@attrs.define
class GeneratedFleet:
    """The nodes of a fleet, and the limits of the server that has their samples."""

    nodes: int
    containers: int = 1
    interval: float = 15.0
    """Seconds between two scrapes of a node."""
    max_series: int | None = None
    """Queries with more series are rejected as by Mimir."""
    max_samples: int | None = None
    """Queries with more samples are rejected as by Prometheus."""
    usage: tuple[str, ...] = USAGE
    now: float | None = None
    """The server's time in Unix seconds; None means the real time."""
    packed: bool = False
    """Whether answers are compressed with gzip."""
    requests: list[str] = attrs.field(factory=list[str])
    """The paths and queries of all requests."""
    rejected: int = 0
    """Number of queries that were larger than a limit."""
    largest: int = 0
    """Size of the largest answer in bytes."""
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def instances(self) -> list[str]:
        return [self.instance(node) for node in range(self.nodes)]

    def instance(self, node: int) -> str:
        return f"10.{node >> 16}.{node >> 8 & 255}.{node & 255}:9102"

    def node_of(self, instance: str) -> int:
        first, second, third = (int(word) for word in instance.partition(":")[0].split(".")[1:])
        return (first << 16) + (second << 8) + third

    def reply(self, path: str, headers: Mapping[str, str]) -> Reply:
        """Answer a request."""
        with self._lock:
            self.requests.append(path)
        status, body = self._reply(path)
        with self._lock:
            self.largest = max(self.largest, len(body))
            self.rejected += status == 422
        if self.packed:
            return status, {"Content-Encoding": "gzip"}, gzip.compress(body, 1)
        return status, {}, body

    def _reply(self, path: str) -> tuple[int, bytes]:
        split = urllib.parse.urlsplit(path)
        parameters = dict(urllib.parse.parse_qsl(split.query))
        if split.path == "/api/v1/label/__name__/values":
            return _success([*self.usage, ENERGY])
        if split.path == "/api/v1/label/instance/values":
            return _success(self.instances)
        query = parameters["query"]
        if query == "time()":
            now = time.time() if self.now is None else self.now
            return _success({"resultType": "scalar", "result": [now, str(now)]})
        selector, window = query.rpartition("[")[::2]
        seconds = float(window.partition("ms")[0]) / 1000
        end = float(parameters["time"])
        return self._matrix(selector.partition("{")[0], self._queried_nodes(selector), end - seconds, end)

    def _queried_nodes(self, selector: str) -> list[int]:
        nodes: set[int] | None = None
        for operator, text in _MATCHER.findall(selector):
            words = json.loads(f'"{text}"')
            instances = [word.replace("\\", "") for word in words.split("|")] if operator == "=~" else [words]
            matched = {self.node_of(instance) for instance in instances if instance}
            nodes = matched if nodes is None else nodes & matched
        return sorted(range(self.nodes) if nodes is None else nodes)

    def _matrix(self, metric: str, nodes: list[int], start: float, end: float) -> tuple[int, bytes]:
        per_node = 1 if metric == ENERGY else self.containers
        n_series = per_node * len(nodes)
        if self.max_series is not None and n_series > self.max_series:
            return _error(f"the query exceeded the maximum number of series (limit: {self.max_series} series)")
        if self.max_samples is not None and n_series * (end - start) / self.interval > self.max_samples:
            return _error("query processing would load too many samples into memory in query execution")
        content = b",".join(self._series(metric, nodes, per_node, start, end))
        return 200, b'{"status":"success","data":{"resultType":"matrix","result":[' + content + b"]}}"

    def _series(self, metric: str, nodes: list[int], per_node: int, start: float, end: float) -> Iterator[bytes]:
        for node in nodes:
            for unit in range(per_node):
                samples = _samples(metric, node % VARIANTS, unit, start, end, self.interval)
                if samples:
                    labels = f'"__name__":"{metric}","instance":"{self.instance(node)}","job":"kepler"'
                    if metric == ENERGY:
                        labels += ',"mode":"dynamic","package":"0","source":"rapl-sysfs"'
                    else:
                        name = f"node-{node}-container-{unit}"
                        labels += f',"container_id":"{name}","container_name":"{name}","pod_name":"{name}"'
                    yield f'{{"metric":{{{labels}}},"values":['.encode() + samples + b"]}"


@functools.lru_cache(maxsize=8192)
def _samples(metric: str, variant: int, unit: int, start: float, end: float, interval: float) -> bytes:
    """Return the samples of a series later than `start` and not later than `end`, as JSON without outer brackets."""
    offset = np.random.default_rng(variant).uniform(0, interval)
    rng = np.random.default_rng([variant, unit])
    period, scale = rng.uniform(200, 900), rng.uniform(100, 1000)
    first = int(np.floor((start - START - offset) / interval)) + 1
    last = int(np.floor((end - START - offset) / interval))
    at = offset + interval * np.arange(max(first, 0), last + 1)
    at = np.round(at, 3)
    frequency = 2 * np.pi / period
    load = scale * (1.05 * at + (1 - np.cos(frequency * at)) / frequency)
    per_unit = {ENERGY: 0.05, USAGE[0]: 1.0}.get(metric, 2e6)
    values = load * per_unit + (60 * at if metric == ENERGY else 0)
    return b",".join(b'[%.3f,"%.3f"]' % pair for pair in zip((START + at).tolist(), values.tolist(), strict=True))


def _success(data: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"status": "success", "data": data}).encode()


def _error(text: str) -> tuple[int, bytes]:
    return 422, json.dumps({"status": "error", "errorType": "execution", "error": text}).encode()
