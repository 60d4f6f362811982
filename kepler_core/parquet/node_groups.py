"""Divide the series of a recording into groups of nodes that can be observed separately.

Series of one machine must stay together: several exporters may run on a machine, and a machine may have several node
labels. `observe` recognises such a machine by the host in its node label, by labels that name it
(`MetricSchema.node_alias_labels`), and by the ids of its containers. So nodes that share any of these stay together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kepler_core.contracts import MetricSchema
from kepler_core.recording.exporters import host_of
from kepler_core.recording.metric_mapping import UNIQUE_ID


class NodeGroups:
    """Collects series, and joins those that may belong to one machine."""

    def __init__(self, schemas: Iterable[MetricSchema]) -> None:
        schemas = tuple(schemas)
        self._node_labels = sorted({schema.node_label for schema in schemas})
        self._aliases = sorted({label for schema in schemas for label in schema.node_alias_labels})
        self._ids = sorted({label for schema in schemas for label in schema.container_labels})
        self._parent: dict[tuple[str, str], tuple[str, str]] = {}
        self._key_of: dict[str, tuple[str, str]] = {}
        self._n_samples: dict[str, int] = {}

    def add(self, text: str, labels: Mapping[str, str], n_samples: int) -> None:
        """Add a series with `n_samples` samples; `text` identifies its labels."""
        self._n_samples[text] = self._n_samples.get(text, 0) + n_samples
        if text in self._key_of:
            return
        keys = [("name", host_of(labels.get(label, ""))) for label in self._node_labels]
        keys += [("name", labels[label]) for label in self._aliases if labels.get(label)]
        keys += [("id", labels[label]) for label in self._ids if UNIQUE_ID.fullmatch(labels.get(label, ""))]
        first = self._root(keys[0])
        for key in keys[1:]:
            self._parent[self._root(key)] = first
        self._key_of[text] = keys[0]

    def _root(self, key: tuple[str, str]) -> tuple[str, str]:
        self._parent.setdefault(key, key)
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def groups(self, most: int) -> Iterator[frozenset[str]]:
        """Yield groups of series, each as the texts of its series.

        A group of several machines has at most `most` samples.
        """
        machines: dict[tuple[str, str], list[str]] = {}
        for text, key in sorted(self._key_of.items(), key=lambda item: (item[1], item[0])):
            machines.setdefault(self._root(key), []).append(text)
        group: list[str] = []
        n_samples = 0
        for texts in machines.values():
            of_machine = sum(self._n_samples[text] for text in texts)
            if group and n_samples + of_machine > most:
                yield frozenset(group)
                group, n_samples = [], 0
            group += texts
            n_samples += of_machine
        if group:
            yield frozenset(group)
