"""The models of a pipeline: what each is, without loading it."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Any

import attrs
import msgspec

from kepler_core.errors import ModelError, StoreError
from kepler_core.models.kepler_weights import KeplerWeights, read_weights
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import METADATA_FILE, MODEL_FILE, PowerModel
from kepler_core.store.layout import NODE_TYPE_INDEX
from kepler_core.store.manifest import FileRecord, make_record
from kepler_core.store.scores import Figures, read_figures
from kepler_core.store.store import Snapshot
from kepler_core.text_blocks import PackedText, Packer
from kepler_core.vocabulary import OUTPUT_TYPES

_MODEL_ZIP = re.compile(
    rf"(?P<source>[^/]+)/(?P<output_type>{'|'.join(OUTPUT_TYPES)})/(?P<group>[^/]+)"
    r"/(?P<name>(?P<trainer>[^/]+)_(?P<node_type>\d{1,9}))\.zip"
)


@attrs.frozen(eq=False)
class NodeType:
    """A kind of machine that a pipeline has models of."""

    number: int
    spec: Mapping[str, Any]
    """Attributes of the machine: processor, cores, chips, memory (GiB), frequency (MHz)."""
    members: tuple[str, ...]


@attrs.frozen(eq=False)
class StoredModel:
    """A model in a pipeline's snapshot."""

    snapshot: Snapshot
    path: str
    """Below the pipeline, without a suffix: `<source>/<output type>/<feature group>/<name>`."""
    source: str
    output_type: str
    feature_group: str
    name: str
    trainer: str
    node_type: int
    machine_spec: Mapping[str, Any]
    features: tuple[str, ...]
    figures: Figures
    """The numbers in its metadata."""
    weights: KeplerWeights | None
    """Weights that Kepler may evaluate itself."""
    no_weights: str
    """Why there are none."""
    portable: bool
    """Whether Kepler Core can load it."""
    _packed: PackedText
    archive_record: FileRecord | None
    """What its zip must be, if it was looked at."""

    @property
    def pipeline(self) -> str:
        return self.snapshot.pipeline

    @property
    def encoded(self) -> bytes:
        """Its `metadata.json`, without blanks."""
        return msgspec.json.format(self._packed.unpack(), indent=-1)

    @property
    def metadata(self) -> dict[str, Any]:
        return msgspec.json.decode(self._packed.unpack(), type=dict[str, Any])

    def load(self, *, resident: bool = False) -> PowerModel:
        """The model itself; `ModelError` for one that is not ours, `StoreError` for a damaged one."""
        return load_model(_Files(self.snapshot, self.path), f"{self.snapshot.where}/{self.path}", resident=resident)

    def archive(self) -> bytes:
        """Its zip, checked against the pipeline's manifest or what it was when the pipeline was read."""
        name = self.path + ".zip"
        if self.archive_record is None:
            return self.snapshot.read(name)
        return self.snapshot.read_as(name, self.archive_record)


class _Files(Mapping[str, bytes]):
    """A model's folder."""

    def __init__(self, snapshot: Snapshot, path: str) -> None:
        self._snapshot = snapshot
        self._path = path

    def __getitem__(self, name: str) -> bytes:
        full = f"{self._path}/{name}"
        if full not in self._snapshot.names:
            raise KeyError(name)
        return self._snapshot.read(full)

    def __iter__(self) -> Any:
        start = self._path + "/"
        return iter(sorted(name.removeprefix(start) for name in self._snapshot.names if name.startswith(start)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def count_models(snapshot: Snapshot) -> int:
    """How many models a pipeline has."""
    return sum(1 for name in snapshot.names if _MODEL_ZIP.fullmatch(name))


def read_node_types(snapshot: Snapshot) -> dict[int, NodeType]:
    """The pipeline's node types by number; `StoreError` for an index that is not one."""
    if NODE_TYPE_INDEX not in snapshot.names:
        return {}
    found = {}
    for number, entry in snapshot.read_json(NODE_TYPE_INDEX).items():
        if not (number.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("attrs", {}), dict)):
            raise StoreError(f"{snapshot.where}: {NODE_TYPE_INDEX}: {number[:40]!r} is not a node type with attrs")
        members = entry.get("members") or ()
        found[int(number)] = NodeType(int(number), entry.get("attrs", {}), tuple(map(str, members)))
    return found


def read_models(snapshot: Snapshot, *, serving: bool = False) -> list[StoredModel]:
    """All models of a pipeline, in the order of their paths.

    `StoreError` where a file is missing or damaged: a pipeline is read as a whole or not at all.
    `serving` is for who sends archives and never loads a model: every archive is checked too, and what
    is only needed for loading is let go.
    """
    snapshot.check_complete()
    node_types = read_node_types(snapshot)
    archives = sorted(name for name in snapshot.names if name.endswith(".zip") and _MODEL_ZIP.fullmatch(name))
    wanted = (file for name in archives for file in _files_of(name, snapshot.names, serving))
    contents = snapshot.read_many(wanted)
    kept = snapshot.bare() if serving else snapshot
    packers = Packer(), Packer()
    models = []
    for zip_name in archives:
        # in the order in which they were asked for, so that few are in memory at once
        here = dict(islice(contents, len(_files_of(zip_name, snapshot.names, serving))))
        models.append(_read_model(snapshot, kept, zip_name, node_types, here, packers))
    return models


def _files_of(zip_name: str, names: frozenset[str], check_archive: bool) -> list[str]:
    """The files to read of a model, to know what it is."""
    path = zip_name.removesuffix(".zip")
    in_folder = f"{path}/{METADATA_FILE}"
    found = [in_folder] if in_folder in names else []
    if check_archive or not found:
        found.append(zip_name)
    if f"{path}.json" in names:
        found.append(f"{path}.json")
    return found


def _read_model(
    snapshot: Snapshot,
    kept: Snapshot,
    zip_name: str,
    node_types: Mapping[int, NodeType],
    contents: Mapping[str, bytes],
    packers: tuple[Packer, Packer],
) -> StoredModel:
    path = zip_name.removesuffix(".zip")
    where = f"{snapshot.where}/{path}"
    parts = _MODEL_ZIP.fullmatch(zip_name)
    assert parts is not None
    source, output_type, group, name, trainer, number = parts.groups()
    encoded = contents.get(f"{path}/{METADATA_FILE}")
    if encoded is None:
        encoded = _from_archive(contents[zip_name], f"{where}.zip")
    try:
        metadata = msgspec.json.decode(encoded, type=dict[str, Any])
        head = msgspec.convert(metadata, _Head)
    except (msgspec.DecodeError, RecursionError) as error:
        raise StoreError(f"{where}: damaged {METADATA_FILE}: {error}") from error
    node_type = int(number)
    spec = node_types[node_type].spec if node_type in node_types else head.machine_spec
    weights, why = None, "no weights are stored"
    if (stored := contents.get(f"{path}.json")) is not None:
        try:
            weights = read_weights(stored, trainer, head.features, packers[1])
        except ModelError as error:
            why = str(error)
    # made anew: one object of the manifest's would keep much of its memory from being given back
    record = make_record(contents[zip_name]) if kept is not snapshot else None
    return StoredModel(
        snapshot=kept,
        path=path,
        source=sys.intern(source),
        output_type=sys.intern(output_type),
        feature_group=sys.intern(group),
        name=name,
        trainer=sys.intern(trainer),
        node_type=node_type,
        machine_spec=spec,
        features=tuple(map(sys.intern, head.features)),
        figures=read_figures(metadata, (snapshot.pipeline, source, node_type)),
        weights=weights,
        no_weights=why,
        portable=f"{path}/{MODEL_FILE}" in snapshot.names,
        packed=packers[0](encoded),
        archive_record=record,
    )


class _Head(msgspec.Struct):
    """What is needed of a model's metadata to choose it."""

    features: list[str]
    machine_spec: dict[str, Any] = {}


def _from_archive(content: bytes, where: str) -> bytes:
    from kepler_core.store.archive import read_zip

    files = read_zip(content, where, only={METADATA_FILE})
    for name in sorted(files, key=len):
        if name.rpartition("/")[2] == METADATA_FILE:
            return files[name]
    raise StoreError(f"{where}: no {METADATA_FILE} in it")
