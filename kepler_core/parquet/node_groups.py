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

    def machines(self) -> list[list[str]]:
        """Return the series of each machine, in a fixed order. A series is named by the text of its labels.

        If there are only two machines, they count as one: one of them may have the usage, the other the energy
        (`kepler_core.recording.separated_nodes`).
        """
        machines: dict[tuple[str, str], list[str]] = {}
        for text, key in sorted(self._key_of.items(), key=lambda item: (item[1], item[0])):
            machines.setdefault(self._root(key), []).append(text)
        of_each = list(machines.values())
        return [[*of_each[0], *of_each[1]]] if len(of_each) == 2 else of_each

    def groups(self, most: int) -> Iterator[frozenset[str]]:
        """Yield groups of series. A series is named by the text of its labels.

        A group of several machines has at most `most` samples.
        """
        return grouped(self.machines(), self._n_samples, most)


def grouped(machines: Iterable[list[str]], n_samples: Mapping[str, float], most: float) -> Iterator[frozenset[str]]:
    """Yield the series of consecutive machines that have together at most `most` samples, or of a single machine.

    `n_samples` is the number of samples of each series.
    """
    group: list[str] = []
    in_group = 0.0
    for texts in machines:
        of_machine = sum(n_samples[text] for text in texts)
        if group and in_group + of_machine > most:
            yield frozenset(group)
            group, in_group = [], 0
        group += texts
        in_group += of_machine
    if group:
        yield frozenset(group)
