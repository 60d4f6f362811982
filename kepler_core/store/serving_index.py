"""The index of a version: what a server needs to know about all models of the version, in one file.

A server reads a version with ten thousand models several times faster from this file than from the files of the models.
`LocalStore` writes the index of a large version beside the version, and never into it:

    <store>/.versions/<pipeline>/<n>.index

    b"kepler-core index 1\\n" + SHA-256 digest of the rest (32 bytes) + a `_Document` in MessagePack

An index is used only if three conditions are met. Its digest is correct. It belongs to the version's manifest. The
running release of Kepler Core has written it, because other releases may read other properties from the models' files.
`first_difference` compares an index with the files of its version.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Annotated, Any

import attrs
import msgspec

from kepler_core import __version__
from kepler_core.errors import StoreError
from kepler_core.models.kepler_weights import KeplerWeights
from kepler_core.models.power_model import MAX_DOCUMENT_BYTES
from kepler_core.store.documents import MAX_MEMBERS, Spec
from kepler_core.store.layout import NODE_TYPE_INDEX
from kepler_core.store.manifest import LAYOUT_VERSION, MANIFEST_FILE, FileRecord, Manifest, sha256
from kepler_core.store.models import (
    NodeType,
    StoredModel,
    count_models,
    iterate_models,
    parts_of_path,
    read_node_types,
)
from kepler_core.store.scores import Scores
from kepler_core.store.snapshot import Snapshot
from kepler_core.text_blocks import PackedText, packed_blocks, texts_of_block

log = logging.getLogger(__name__)

MIN_INDEXED_MODELS = 500
"""Minimum number of models of a version with an index. A server reads a smaller version in about 0.1 seconds."""
MAX_INDEX_BYTES = 512 * 2**20

_FILE_RECORD = rb':\s*\{\s*"size":\s*(\d+),\s*"sha256":\s*"([0-9a-f]{64})"\s*\}'
_RECORD = re.compile(rb'"((?:[^"\\]|\\.)*)"' + _FILE_RECORD)
_OWN_INDEX = re.compile(b'"(' + re.escape(NODE_TYPE_INDEX.encode()) + b')"' + _FILE_RECORD)
_MODEL_DEPTH = 4
"""Number of names in a model's path: energy source, output type, feature group, and name of the model."""

_MAGIC = b"kepler-core index 1\n"
_DIGEST_BYTES = 32
_VALUE_BYTES = 8

_At = Annotated[int, msgspec.Meta(ge=0)]
"""Position of a value in a table of `_Document`. Models share most values, so each value is stored once."""
_Ends = list[Annotated[int, msgspec.Meta(ge=1)]]
_Block = tuple[bytes, _Ends]
"""A compressed block of texts. The numbers are the positions in the unpacked block at which the texts end."""


class UnusableIndexError(StoreError):
    """Error: an index cannot be used."""


class _Weights(msgspec.Struct, array_like=True, gc=False):
    trainer: str
    text: _At
    drawn_over: _At


class _Model(msgspec.Struct, array_like=True, gc=False):
    """The properties of a model, as in `StoredModel`. The fields `score_names` to `has_twin` are those of `Scores`."""

    path: str
    machine_spec: _At
    features: _At
    score_names: _At
    score_values: bytes
    """64-bit floats, the byte with the lowest value first."""
    measured_on: _At
    relative_mae: float
    has_twin: bool
    weights: _Weights | None
    no_weights: _At
    portable: bool
    pickled: bool
    no_linear_weights: _At | None
    other_weights: _At | None
    archive_size: _At
    archive_sha256: Annotated[str, msgspec.Meta(min_length=64, max_length=64)]


class _NodeType(msgspec.Struct, array_like=True, gc=False):
    machine_spec: _At
    members: Annotated[list[str], msgspec.Meta(max_length=MAX_MEMBERS)]


class _Document(msgspec.Struct, array_like=True):
    release: str
    """The version of Kepler Core that has written the index."""
    manifest: str
    """SHA-256 digest of the version's manifest."""
    specs: list[Spec]
    texts: list[str]
    tuples: list[list[str | int]]
    """Lists that models share: names of features, names of scores, and identities of validation data."""
    node_types: dict[int, _NodeType]
    metadata: list[_Block]
    """The `metadata.json` of each model, in the order of `models`."""
    weights: list[_Block]
    models: list[_Model]


@attrs.frozen(eq=False)
class IndexedModels:
    """The models and node types of a version, read from its index."""

    snapshot: Snapshot
    models: list[StoredModel]
    node_types: dict[int, NodeType]


# --- writing ---


class _Table:
    """Distinct values in the order of their first use."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._at: dict[Any, int] = {}

    def at(self, value: Any, key: Any = None) -> int:
        """Return the position of a value in `values`; add a new value. If the value is not hashable, pass a `key`."""
        key = value if key is None else key
        if key not in self._at:
            self._at[key] = len(self.values)
            self.values.append(value)
        return self._at[key]

    def at_spec(self, spec: Any) -> int:
        return self.at(dict(spec), msgspec.json.encode(spec))


def make_index(pipeline: str, version: int, files: Mapping[str, bytes]) -> bytes | None:
    """Return the index of a version, or None. `files` maps the paths of the version's files to their contents.

    Return None if the version has few models, if they cannot be read, or if the index would be too large.
    """
    where = f"{pipeline}, version {version}"
    snapshot = Snapshot(pipeline, version, where, None, frozenset(files), lambda name, max_bytes: files[name])
    if count_models(snapshot) < MIN_INDEXED_MODELS:
        return None
    try:
        index = encode_index(snapshot, files[MANIFEST_FILE])
    except StoreError as error:
        log.warning("no index is written: %s", error)
        return None
    return index if len(index) <= MAX_INDEX_BYTES else None


def encode_index(snapshot: Snapshot, manifest: bytes) -> bytes:
    """Read the models of a version, and return the content of the version's index.

    `manifest` is the content of the version's manifest. Raises `StoreError` if the models cannot be read.
    """
    specs, texts, tuples = _Table(), _Table(), _Table()
    weights: list[bytes] = []
    metadata: list[bytes] = []
    rows = []

    def weight_text(text: bytes) -> int:
        weights.append(text)
        return len(weights) - 1

    for model in iterate_models(snapshot, serving=True):
        metadata.append(model.text)
        assert model.archive_record is not None
        scores, own, other = model.scores, model.weights, model.other_weights
        values = array("d", scores.values)
        if sys.byteorder == "big":
            values.byteswap()
        rows.append(
            _Model(
                model.path,
                specs.at_spec(model.machine_spec),
                tuples.at(model.features),
                tuples.at(scores.names),
                values.tobytes(),
                tuples.at(scores.measured_on),
                scores.relative_mae,
                scores.has_twin,
                None if own is None else _Weights(own.trainer, weight_text(own.encoded), _set_at(tuples, own)),
                texts.at(model.no_weights),
                model.portable,
                model.pickled,
                None if model.no_linear_weights is None else texts.at(model.no_linear_weights),
                None if other is None else weight_text(other),
                model.archive_record.size,
                model.archive_record.sha256,
            )
        )
    node_types = {
        number: _NodeType(specs.at_spec(node_type.spec), list(node_type.members))
        for number, node_type in read_node_types(snapshot).items()
    }
    document = _Document(
        __version__,
        sha256(manifest),
        specs.values,
        texts.values,
        [list(names) for names in tuples.values],
        node_types,
        packed_blocks(metadata),
        packed_blocks(weights),
        rows,
    )
    content = msgspec.msgpack.encode(document)
    return _MAGIC + hashlib.sha256(content).digest() + content


def _set_at(tuples: _Table, weights: KeplerWeights) -> int:
    return tuples.at(tuple(sorted(weights.drawn_over)))


# --- reading ---


def decode_index(content: bytes, manifest: bytes, snapshot: Snapshot) -> IndexedModels:
    """Return the models in an index, or raise `UnusableIndexError`.

    `manifest` is the content of the version's manifest. `snapshot` reads the archives of the models.
    """
    start = len(_MAGIC) + _DIGEST_BYTES
    body = memoryview(content)[start:]
    if not content.startswith(_MAGIC):
        raise UnusableIndexError("the file is not an index, or its layout is another one")
    if hashlib.sha256(body).digest() != content[len(_MAGIC) : start]:
        raise UnusableIndexError("it is damaged")
    try:
        document = msgspec.msgpack.decode(body, type=_Document)
        if document.release != __version__:
            raise UnusableIndexError(f"written by kepler-core {document.release[:20]}, not by {__version__}")
        if document.manifest != sha256(manifest):
            raise UnusableIndexError("it belongs to another manifest")
        return _indexed_models(document, snapshot)
    except (msgspec.MsgspecError, IndexError, ValueError, OverflowError, RecursionError) as error:
        raise UnusableIndexError(f"it is malformed: {error}") from error


def _indexed_models(document: _Document, snapshot: Snapshot) -> IndexedModels:
    texts = [sys.intern(text) for text in document.texts]
    tuples = [tuple(sys.intern(v) if isinstance(v, str) else v for v in names) for names in document.tuples]
    sets = {at: frozenset(tuples[at]) for at in {m.weights.drawn_over for m in document.models if m.weights}}
    metadata, weights = _packed_texts(document.metadata), _packed_texts(document.weights)
    if len(metadata) != len(document.models):
        raise ValueError(f"the index lists {len(document.models)} models, but has metadata of {len(metadata)}")
    models = []
    for row, packed in zip(document.models, metadata, strict=True):
        source, output_type, group, name, trainer, number = parts_of_path(row.path)
        if len(row.score_values) != _VALUE_BYTES * len(tuples[row.score_names]):
            raise ValueError(f"{row.path[:100]}: a wrong number of scores")
        values = array("d", row.score_values)
        if sys.byteorder == "big":
            values.byteswap()
        scores = Scores(
            tuples[row.score_names], values, tuples[row.measured_on], row.relative_mae, row.has_twin  # type: ignore[arg-type]
        )  # fmt: skip
        own = row.weights
        models.append(
            StoredModel(
                snapshot=snapshot,
                path=row.path,
                source=sys.intern(source),
                output_type=sys.intern(output_type),
                feature_group=sys.intern(group),
                name=name,
                trainer=sys.intern(trainer),
                node_type=number,
                machine_spec=document.specs[row.machine_spec],
                features=tuples[row.features],  # type: ignore[arg-type]
                scores=scores,
                weights=None
                if own is None
                else KeplerWeights(sys.intern(own.trainer), weights[own.text], sets[own.drawn_over]),  # type: ignore[arg-type]
                no_weights=texts[row.no_weights],
                portable=row.portable,
                pickled=row.pickled,
                no_linear_weights=None if row.no_linear_weights is None else texts[row.no_linear_weights],
                packed=packed,
                other_weights=None if row.other_weights is None else weights[row.other_weights],
                archive_record=FileRecord(row.archive_size, row.archive_sha256),
            )
        )
    node_types = {
        number: NodeType(number, document.specs[entry.machine_spec], tuple(entry.members))
        for number, entry in document.node_types.items()
    }
    return IndexedModels(snapshot, models, node_types)


def _packed_texts(blocks: Sequence[_Block]) -> list[PackedText]:
    packed_texts: list[PackedText] = []
    for packed, ends in blocks:
        if sorted(ends) != ends or ends[-1] > len(ends) * MAX_DOCUMENT_BYTES:
            raise ValueError("a block of texts states wrong positions of the texts")
        packed_texts += texts_of_block(packed, ends)
    return packed_texts


# --- checking ---


def first_difference(indexed: IndexedModels, pause: Callable[[], bool]) -> str | None:
    """Compare an index with the files of its version. Return the path of the first difference; None if there is none.

    Call `pause` after each model, and return None if it returns True. Raises `StoreError` if a file of the
    version is missing or damaged.
    """
    snapshot = indexed.snapshot
    # The manifest stays a text, because the records of all files would take three times the memory of the text.
    manifest = snapshot.with_names({MANIFEST_FILE}).read(MANIFEST_FILE)
    own_index = _OWN_INDEX.search(manifest)
    node_types = {} if own_index is None else read_node_types(_part_of(snapshot, [_record_in(own_index)]))
    if {n: _node_type_facts(t) for n, t in node_types.items()} != {
        n: _node_type_facts(t) for n, t in indexed.node_types.items()
    }:
        return NODE_TYPE_INDEX
    remaining = iter(indexed.models)
    for path, records in groupby(map(_record_in, _RECORD.finditer(manifest)), key=_model_of_file):
        if path is None:
            continue
        for model in iterate_models(_part_of(snapshot, records), serving=True, packed=False, node_types=node_types):
            other = next(remaining, None)
            if other is None or _facts(model) != _facts(other):
                return path
            if pause():
                return None
    return None if (other := next(remaining, None)) is None else other.path


def _record_in(found: re.Match[bytes]) -> tuple[str, FileRecord]:
    name, size, digest = found.groups()
    return msgspec.json.decode(b'"%s"' % name, type=str), FileRecord(int(size), digest.decode())


def _model_of_file(record: tuple[str, FileRecord]) -> str | None:
    """Return the path of the model that a file belongs to; None if it belongs to no model."""
    parts = record[0].split("/")
    if len(parts) == _MODEL_DEPTH:
        if not parts[-1].endswith((".zip", ".json")):
            return None  # another file, e.g. of a plugin
        parts[-1] = parts[-1].removesuffix(".zip").removesuffix(".json")
    return "/".join(parts[:_MODEL_DEPTH]) if len(parts) >= _MODEL_DEPTH else None


def _part_of(snapshot: Snapshot, records: Iterable[tuple[str, FileRecord]]) -> Snapshot:
    """Return a snapshot that has only the files in `records`."""
    files = dict(records)
    return attrs.evolve(snapshot, manifest=Manifest(LAYOUT_VERSION, files), names=frozenset(files))


def _node_type_facts(node_type: NodeType) -> tuple[Any, ...]:
    return dict(node_type.spec), node_type.members


def _facts(model: StoredModel) -> tuple[Any, ...]:
    """Return all properties of a model in a form that can be compared."""
    scores, weights = model.scores, model.weights
    return (
        model.path,
        dict(model.machine_spec),
        model.features,
        (scores.names, scores.values, scores.measured_on, repr(scores.relative_mae), scores.has_twin),
        None if weights is None else (weights.trainer, weights.drawn_over, weights.encoded),
        None if weights is not None else model.no_weights,
        (model.portable, model.pickled, model.no_linear_weights, model.other_weights),
        model.archive_record,
        model.text,
    )
