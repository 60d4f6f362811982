"""Read the properties of a pipeline's models without loading the models."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import attrs
import msgspec

from kepler_core.documents import decode_object
from kepler_core.errors import ModelError, PluginError, StoreError
from kepler_core.models.kepler_weights import KeplerWeights, read_weights
from kepler_core.models.linear_weights import load_linear_weights, read_linear_weights
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import (
    MAX_DOCUMENT_BYTES,
    METADATA_FILE,
    MODEL_FILE,
    WEIGHT_FILE,
    PowerModel,
    max_bytes_to_load,
)
from kepler_core.store.documents import decode_model, decode_node_types
from kepler_core.store.layout import NODE_TYPE_INDEX
from kepler_core.store.manifest import FileRecord, make_record
from kepler_core.store.safe_zip import read_zip
from kepler_core.store.scores import Scores, read_scores
from kepler_core.store.snapshot import Snapshot
from kepler_core.text_blocks import PackedText, Packer, Unpacked
from kepler_core.vocabulary import OUTPUT_TYPES

_MODEL_ZIP = re.compile(
    rf"(?P<source>[^/]+)/(?P<output_type>{'|'.join(OUTPUT_TYPES)})/(?P<group>[^/]+)"
    r"/(?P<name>(?P<trainer>[^/]+)_(?P<node_type>\d{1,9}))\.zip"
)

PICKLED_CLASSES = frozenset({"scikit", "xgboost", "curvefit"})
"""Values of `model_class` in the metadata of models that the estimator of kepler-model-server 0.7 can load."""


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
    """Whether the model has the form in which Kepler Core stores models. Its folder then has a `model.json`."""
    pickled: bool
    """Whether the model's zip file contains pickles that the estimator of kepler-model-server can load."""
    no_linear_weights: str | None
    """The reason why Kepler Core cannot evaluate weights of a model that is not portable; None if it can.

    For portable models, the value has no meaning: Kepler Core does not need their weights."""
    _packed: PackedText
    _other_weights: PackedText | None
    """Linear weights that Kepler Core can evaluate safely, but Kepler cannot. They are None if the model has none, or
    if it has `weights`."""
    archive_record: FileRecord | None
    """The size and digest of the model's zip file; None if `read_models` did not read this file."""

    @property
    def pipeline(self) -> str:
        return self.snapshot.pipeline

    @property
    def text(self) -> bytes:
        """The content of the model's `metadata.json`."""
        return self._packed.unpack()

    @property
    def other_weights(self) -> bytes | None:
        """The content of `_other_weights`."""
        return None if self._other_weights is None else self._other_weights.unpack()

    @property
    def encoded(self) -> bytes:
        """The model's `metadata.json` without whitespace."""
        return msgspec.json.format(self._packed.unpack(), indent=-1)

    @property
    def metadata(self) -> dict[str, Any]:
        return decode_object(self._packed.unpack())

    @property
    def table_row(self) -> dict[str, Any]:
        """The metadata, with the keys that `layout.model_tables` needs.

        The metadata of models in the public model database lack some of these keys.
        """
        return {
            **self.metadata,
            "source": self.source,
            "output_type": self.output_type,
            "feature_group": self.feature_group,
            "trainer": self.trainer,
            "node_type": self.node_type,
            "model_name": self.name,
        }

    def files(self) -> dict[str, bytes]:
        """Return all files of the model, by path below the pipeline: its folder, its zip file and its weight file.

        Use this method only for a model that was read with `serving=False`. Otherwise, the snapshot has no file names.
        """
        single = (f"{self.path}.zip", f"{self.path}.json")
        names = self.snapshot.names
        own = sorted(name for name in names if name.startswith(self.path + "/") or name in single)
        return {name: self.snapshot.read(name) for name in own}

    @property
    def loadable(self) -> bool:
        """Whether Kepler Core can load the model: a portable model, or one with linear weights."""
        return self.portable or self.no_linear_weights is None

    @property
    def linear_weights(self) -> bytes | None:
        """The linear weights of a model that is not portable, as members of a JSON object without its braces.

        The value is None if the model has no linear weights.
        """
        if self.portable or self.no_linear_weights is not None:
            return None
        if self._other_weights is not None:
            return self._other_weights.unpack()
        return self.weights.encoded if self.weights is not None else None

    def load(self, *, resident: bool = False) -> PowerModel:
        """Load the model. See `kepler_core.models.loading.load_model` for `resident`.

        A model that is not portable is made from its linear weights. Raises `ModelError` if the model cannot be
        loaded, `StoreError` if a file is damaged.
        """
        where = f"{self.snapshot.where}/{self.path}"
        if (linear := self.linear_weights) is not None:
            place = {
                "source": self.source,
                "output_type": self.output_type,
                "feature_group": self.feature_group,
                "trainer": self.trainer,
                "node_type": self.node_type,
                "machine_spec": dict(self.machine_spec),
            }
            return load_linear_weights(linear, {**self.metadata, **place}, where)
        if not self.portable:
            raise ModelError(f"{where}: {self.no_linear_weights}")
        return load_model(_ModelFolder(self.snapshot, self.path), where, resident=resident)

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


def parts_of_path(path: str) -> tuple[str, str, str, str, str, int]:
    """Return energy source, output type, feature group, name, trainer and number of the node type from a model's path.

    Raises `ValueError` if this is not the path of a model.
    """
    parts = _MODEL_ZIP.fullmatch(path + ".zip")
    if parts is None or not {".", ".."}.isdisjoint(path.split("/")):
        raise ValueError(f"{path[:100]!r} is not the path of a model")
    source, output_type, group, name, trainer, number = parts.groups()
    return source, output_type, group, name, trainer, int(number)


def read_node_types(snapshot: Snapshot) -> dict[int, NodeType]:
    """Return the pipeline's node types. Each key is the number of a node type.

    Raises `StoreError` if the file `node_type_index.json` is malformed.
    """
    if NODE_TYPE_INDEX not in snapshot.names:
        return {}
    entries = decode_node_types(snapshot.read(NODE_TYPE_INDEX), f"{snapshot.where}: {NODE_TYPE_INDEX}")
    return {
        number: NodeType(number, entry.attrs, tuple(map(str, entry.members or ()))) for number, entry in entries.items()
    }


def read_models(snapshot: Snapshot, *, serving: bool = False) -> list[StoredModel]:
    """Return all models of a pipeline, in the order of their paths.

    `serving=True` is meant for servers that send the zip files of models and never load a model. The function then also
    reads the zip file of every model. The returned models keep no file names in memory. Raises `StoreError` if a file
    in the manifest is missing, or if the function reads a damaged file.
    """
    return list(iterate_models(snapshot, serving=serving))


def iterate_models(
    snapshot: Snapshot,
    *,
    serving: bool = False,
    packed: bool = True,
    node_types: Mapping[int, NodeType] | None = None,
) -> Iterator[StoredModel]:
    """Yield the models of `read_models` one by one.

    With `packed=False`, the texts of the models are not compressed, which saves time. Use it if each model is dropped
    before the next one is read. `node_types` are the node types of the pipeline; if they are None, they are read.
    """
    snapshot.check_complete()
    if node_types is None:
        node_types = read_node_types(snapshot)
    archives = sorted(name for name in snapshot.names if name.endswith(".zip") and _MODEL_ZIP.fullmatch(name))
    needed = (file for name in archives for file in _needed_files(name, snapshot.names, serving))
    contents = snapshot.read_many(needed)
    kept = snapshot.bare() if serving else snapshot
    packers = (Packer(), Packer()) if packed else (Unpacked(), Unpacked())
    for zip_name in archives:
        # `contents` yields the files model by model. Take the files of one model at a time, to save memory.
        files = dict(islice(contents, len(_needed_files(zip_name, snapshot.names, serving))))
        yield _read_model(snapshot, kept, zip_name, node_types, files, packers)


def best_abs_model(snapshot: Snapshot, source: str, features: tuple[str, ...], node_type: int) -> PowerModel:
    """Load the AbsPower model with the lowest error for an energy source, features and a node type.

    Isolators use it. Raises `PluginError` if the pipeline has no such model.
    """
    candidates = [
        model
        for model in read_models(snapshot)
        if (model.source, model.output_type, model.node_type) == (source, "AbsPower", node_type)
        and model.portable
        and model.features == features
    ]
    if not candidates:
        raise PluginError(f"{snapshot.where}: no AbsPower model of the features {', '.join(features)} for the isolator")
    return min(candidates, key=lambda model: float(model.metadata["mae"])).load()


def _needed_files(zip_name: str, names: frozenset[str], check_archive: bool) -> list[str]:
    """Return the paths of the files that `_read_model` needs to read one model."""
    path = zip_name.removesuffix(".zip")
    metadata_file = f"{path}/{METADATA_FILE}"
    files = [metadata_file] if metadata_file in names else []
    if check_archive or not files:
        files.append(zip_name)
    # kepler-model-server keeps a model's weights beside the zip file, in the model's folder, or in both places
    files += [name for name in (f"{path}.json", f"{path}/{WEIGHT_FILE}") if name in names][:1]
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
    weight_file = files.get(f"{path}.json", files.get(f"{path}/{WEIGHT_FILE}"))
    if encoded is None:
        encoded, weights_in_archive = _documents_in_archive(files[zip_name], f"{where}.zip")
        weight_file = weights_in_archive if weight_file is None else weight_file
    metadata, head = decode_model(encoded, f"{where}: damaged {METADATA_FILE}")
    node_type = int(number)
    spec = node_types[node_type].spec if node_type in node_types else head.machine_spec
    weights, no_weights = None, head.no_weights
    if weight_file is not None:
        try:
            weights = read_weights(weight_file, trainer, head.features, packers[1])
        except ModelError as error:
            no_weights = str(error)
    portable = f"{path}/{MODEL_FILE}" in snapshot.names
    no_linear_weights, other_weights = None, None
    if not portable:
        no_linear_weights, linear = _linear_weights(weight_file, head.features)
        if linear is not None and weights is None:
            other_weights = packers[1](linear)
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
        portable=portable,
        pickled=not portable and str(metadata.get("model_class", "scikit")) in PICKLED_CLASSES,
        no_linear_weights=no_linear_weights,
        packed=packers[0](encoded),
        other_weights=other_weights,
        archive_record=record,
    )


def _linear_weights(weight_file: bytes | None, features: Sequence[str]) -> tuple[str | None, bytes | None]:
    """Return the reason why Kepler Core cannot evaluate the weights, and the encoded linear weights.

    One of the two is None.
    """
    if weight_file is None:
        return "only pickles, no weights", None
    try:
        return None, read_linear_weights(weight_file, features).encoded
    except ModelError as error:
        return sys.intern(str(error)), None


def _documents_in_archive(content: bytes, where: str) -> tuple[bytes, bytes | None]:
    """Return the metadata and, if there are any, the weights in a model's zip file."""
    files = read_zip(content, where, only={METADATA_FILE, WEIGHT_FILE}, max_file_bytes=MAX_DOCUMENT_BYTES)
    by_name = {name.rpartition("/")[2]: files[name] for name in sorted(files, key=len, reverse=True)}
    if METADATA_FILE not in by_name:
        raise StoreError(f"{where}: no {METADATA_FILE} in it")
    return by_name[METADATA_FILE], by_name.get(WEIGHT_FILE)
