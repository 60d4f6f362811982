"""Tables of nodes in a pipeline: the gain of each node, and which nodes are outliers of their type.

The file `nodes/<node type>.json` of a pipeline has a table for each energy source of the training.
`kepler_core.pipeline.node_comparison` makes the tables, and the command `nodes` prints them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec

from kepler_core.documents import MAX_NUMBER, DocumentError, Text, decode_json
from kepler_core.errors import StoreError
from kepler_core.store.snapshot import Snapshot

NODES_FOLDER = "nodes"

_MAX_NODES = 100_000
_Amount = Annotated[float, msgspec.Meta(ge=0, le=float(MAX_NUMBER))]
_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]


class NodeGain(msgspec.Struct, forbid_unknown_fields=True):
    """One row of a `NodeTable`: a node, and how its power differs from that of other nodes (its gain)."""

    node: Text
    samples: _Count
    gain: _Amount | None = None
    """Power of the node ÷ power of the median node of its type, at the same work; None if it was not measured."""
    standard_error: _Amount | None = None
    """Standard error of `gain`."""
    q: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    """Adjusted p-value: the share of false alarms if all nodes with this value or a lower value counted as outliers.
    None if the node was not tested."""
    outlier: bool = False
    reason: Text = ""
    """Why the gain was not measured, or why the node was not tested; empty if it was tested."""


class NodeTable(msgspec.Struct, forbid_unknown_fields=True):
    """The gains of all nodes of one node type, measured by one energy source."""

    node_type: _Count
    source: Text
    component: Text
    """The component whose power is compared."""
    features: list[Text]
    """The features that describe the work of a node."""
    least: _Amount
    """An outlier differs from the median node at least by this fraction of the power."""
    spread: _Amount | None
    """Standard deviation of the gains between nodes, without the errors of the gains; None if it was not measured."""
    spread_error: _Amount | None
    """Standard error of `spread`."""
    nodes: list[NodeGain]
    """Outliers first, then the nodes in descending order of the difference from the median node."""

    @property
    def outliers(self) -> list[NodeGain]:
        """The nodes that are outliers."""
        return [node for node in self.nodes if node.outlier]


_tables = msgspec.json.Decoder(Annotated[list[NodeTable], msgspec.Meta(max_length=_MAX_NODES)])


def node_tables_file(node_type: int) -> str:
    """Return the path of the file with the tables of a node type, relative to the pipeline's folder."""
    return f"{NODES_FOLDER}/{node_type}.json"


def write_node_tables(tables: Sequence[NodeTable]) -> bytes:
    """Return the content of a file `nodes/<node type>.json`, which has the tables of a node type."""
    return msgspec.json.format(msgspec.json.encode(tables), indent=1) + b"\n"


def read_node_tables(snapshot: Snapshot) -> list[NodeTable]:
    """Return the tables of nodes for all node types of a pipeline. Raises `StoreError` if a file is malformed."""
    tables = []
    for name in sorted(snapshot.names):
        if name.startswith(f"{NODES_FOLDER}/") and name.endswith(".json"):
            try:
                tables += decode_json(snapshot.read(name), _tables)
            except DocumentError as error:
                raise StoreError(f"{snapshot.where}: {name}: {error}") from error
    return by_source(tables)


def by_source(tables: Iterable[NodeTable]) -> list[NodeTable]:
    """Return the tables sorted by energy source and node type."""
    return sorted(tables, key=lambda table: (table.source, table.node_type))


def headline(table: NodeTable) -> str:
    """Return a sentence with the number of outliers, and the spread between the nodes."""
    count = len(table.nodes)
    text = f"node type {table.node_type}, {table.component} of {table.source}: "
    if table.spread is None or table.spread_error is None:
        return f"{text}{count} node{'s' if count != 1 else ''}, not tested for outliers"
    percent = f"{100 * table.least:g} %"
    text += f"{len(table.outliers)} of {count} nodes draw at least {percent} more or less than their twins"
    return f"{text} (spread between nodes: {100 * table.spread:.1f} ± {100 * table.spread_error:.1f} %)"
