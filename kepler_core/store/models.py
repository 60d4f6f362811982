"""Read the properties of a pipeline's models without loading the models."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import attrs
import msgspec

from kepler_core.documents import decode_object
from kepler_core.errors import ModelError, StoreError
from kepler_core.models.kepler_weights import KeplerWeights, read_weights
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import (
    MAX_DOCUMENT_BYTES,
    METADATA_FILE,
    MODEL_FILE,
    PowerModel,
    max_bytes_to_load,
)
from kepler_core.store.documents import decode_model, decode_node_types
from kepler_core.store.layout import NODE_TYPE_INDEX
from kepler_core.store.manifest import FileRecord, make_record
from kepler_core.store.safe_zip import read_zip
from kepler_core.store.scores import Scores, read_scores
from kepler_core.store.snapshot import Snapshot
from kepler_core.text_blocks import PackedText, Packer
from kepler_core.vocabulary import OUTPUT_TYPES

_MODEL_ZIP = re.compile(
    rf"(?P<source>[^/]+)/(?P<output_type>{'|'.join(OUTPUT_TYPES)})/(?P<group>[^/]+)"
    r"/(?P<name>(?P<trainer>[^/]+)_(?P<node_type>\d{1,9}))\.zip"
)


@attrs.frozen(eq=False)
class NodeType:
    """A class of machines with equal description, for which a pipeline has models."""

    number: int
    spec: Mapping[str, Any]
    """Attributes of the machine: processor, cores, chips, memory (GiB), frequency (MHz)."""
    members: tuple[str, ...]


@attrs.frozen(eq=False)
class StoredModel:
    """A model in a pipeline's snapshot."""

    snapshot: Snapshot
    path: str
    """Path below the pipeline, without the suffix `.zip`: `<source>/<output type>/<feature group>/<name>`."""
    source: str
    output_type: str
    feature_group: str
    name: str
    trainer: str
    node_type: int
    machine_spec: Mapping[str, Any]
    features: tuple[str, ...]
    scores: Scores
    weights: KeplerWeights | None
    """The model's weights, if Kepler may evaluate them itself; None otherwise."""
    no_weights: str
    """The reason why `weights` is None, for messages."""
    portable: bool
    """Whether Kepler Core can load the model. This is the case if the model's folder has a `model.json`."""
    _packed: PackedText
    archive_record: FileRecord | None
    """The size and digest of the model's zip file; None if `read_models` did not read this file."""

    @property
    def pipeline(self) -> str:
        return self.snapshot.pipeline

    @property
    def encoded(self) -> bytes:
        """The model's `metadata.json` without whitespace."""
        return msgspec.json.format(self._packed.unpack(), indent=-1)

    @property
    def metadata(self) -> dict[str, Any]:
        return decode_object(self._packed.unpack())

    def load(self, *, resident: bool = False) -> PowerModel:
        """Load the model. See `kepler_core.models.loading.load_model` for `resident`.

        Raises `ModelError` if Kepler Core did not store the model, `StoreError` if a file is damaged.
        """
        return load_model(
            _ModelFolder(self.snapshot, self.path), f"{self.snapshot.where}/{self.path}", resident=resident
        )

    def archive(self) -> bytes:
        """Return the model's zip file, checked against `archive_record` or, if that is None, against the manifest."""
        name = self.path + ".zip"
        if self.archive_record is None:
            return self.snapshot.read(name)
        return self.snapshot.read_as(name, self.archive_record)


class _ModelFolder(Mapping[str, bytes]):
    """The files in a model's folder by name. Each file is read when it is accessed."""

    def __init__(self, snapshot: Snapshot, path: str) -> None:
        self._snapshot = snapshot
        self._path = path

    def __getitem__(self, name: str) -> bytes:
        full = f"{self._path}/{name}"
        if full not in self._snapshot.names:
            raise KeyError(name)
        return self._snapshot.read(full, max_bytes_to_load(name))

    def __iter__(self) -> Iterator[str]:
        start = self._path + "/"
        return iter(sorted(name.removeprefix(start) for name in self._snapshot.names if name.startswith(start)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def count_models(snapshot: Snapshot) -> int:
    """Return the number of models in a pipeline."""
    return sum(1 for name in snapshot.names if _MODEL_ZIP.fullmatch(name))


def read_node_types(snapshot: Snapshot) -> dict[int, NodeType]:
    """Return the pipeline's node types by number, or raise `StoreError` if the index is malformed."""
    if NODE_TYPE_INDEX not in snapshot.names:
        return {}
    entries = decode_node_types(snapshot.read(NODE_TYPE_INDEX), f"{snapshot.where}: {NODE_TYPE_INDEX}")
    return {
        number: NodeType(number, entry.attrs, tuple(map(str, entry.members or ()))) for number, entry in entries.items()
    }


def read_models(snapshot: Snapshot, *, serving: bool = False) -> list[StoredModel]:
    """Return all models of a pipeline, in the order of their paths.

    Servers that send the models' zip files and never load a model pass `serving=True`. Then the zip file of every
    model is read, too, and the returned models keep no file names in memory. Raises `StoreError` if a file that
    the manifest lists is missing, or if a file that is read is damaged.
    """
    snapshot.check_complete()
    node_types = read_node_types(snapshot)
    archives = sorted(name for name in snapshot.names if name.endswith(".zip") and _MODEL_ZIP.fullmatch(name))
    needed = (file for name in archives for file in _needed_files(name, snapshot.names, serving))
    contents = snapshot.read_many(needed)
    kept = snapshot.bare() if serving else snapshot
    packers = Packer(), Packer()
    models = []
    for zip_name in archives:
        # `contents` yields the files model by model. Take the files of one model at a time, to save memory.
        files = dict(islice(contents, len(_needed_files(zip_name, snapshot.names, serving))))
        models.append(_read_model(snapshot, kept, zip_name, node_types, files, packers))
    return models


def _needed_files(zip_name: str, names: frozenset[str], check_archive: bool) -> list[str]:
    """Return the paths of the files that `_read_model` needs to read one model."""
    path = zip_name.removesuffix(".zip")
    metadata_file = f"{path}/{METADATA_FILE}"
    files = [metadata_file] if metadata_file in names else []
    if check_archive or not files:
        files.append(zip_name)
    if f"{path}.json" in names:
        files.append(f"{path}.json")
    return files


def _read_model(
    snapshot: Snapshot,
    kept: Snapshot,
    zip_name: str,
    node_types: Mapping[int, NodeType],
    files: Mapping[str, bytes],
    packers: tuple[Packer, Packer],
) -> StoredModel:
    path = zip_name.removesuffix(".zip")
    where = f"{snapshot.where}/{path}"
    parts = _MODEL_ZIP.fullmatch(zip_name)
    assert parts is not None
    source, output_type, group, name, trainer, number = parts.groups()
    encoded = files.get(f"{path}/{METADATA_FILE}")
    if encoded is None:
        encoded = _metadata_in_archive(files[zip_name], f"{where}.zip")
    metadata, head = decode_model(encoded, f"{where}: damaged {METADATA_FILE}")
    node_type = int(number)
    spec = node_types[node_type].spec if node_type in node_types else head.machine_spec
    weights, no_weights = None, head.no_weights
    if (weight_file := files.get(f"{path}.json")) is not None:
        try:
            weights = read_weights(weight_file, trainer, head.features, packers[1])
        except ModelError as error:
            no_weights = str(error)
    # Make a new record, because a reference to the manifest's record would keep the manifest in memory.
    record = make_record(files[zip_name]) if kept is not snapshot else None
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
        scores=read_scores(metadata, (snapshot.pipeline, source, node_type)),
        weights=weights,
        no_weights=no_weights,
        portable=f"{path}/{MODEL_FILE}" in snapshot.names,
        packed=packers[0](encoded),
        archive_record=record,
    )


def _metadata_in_archive(content: bytes, where: str) -> bytes:
    files = read_zip(content, where, only={METADATA_FILE}, max_file_bytes=MAX_DOCUMENT_BYTES)
    for name in sorted(files, key=len):
        if name.rpartition("/")[2] == METADATA_FILE:
            return files[name]
    raise StoreError(f"{where}: no {METADATA_FILE} in it")
