"""The schemas of a pipeline's JSON documents.

The commands `import`, `publish` and `verify`, and everything that reads a store, check documents against these schemas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kepler_core.documents import DocumentError, Scalar, Text, decode_json, decode_object
from kepler_core.errors import StoreError
from kepler_core.models.power_model import (
    MAX_COMPONENT_BYTES,
    MAX_DOCUMENT_BYTES,
    METADATA_FILE,
    MODEL_FILE,
    WEIGHT_FILE,
    ModelFile,
)
from kepler_core.store.layout import NODE_TYPE_INDEX

MAX_FEATURES = 1000
MAX_NODE_TYPES = 100_000
MAX_ATTRIBUTES = 100
MAX_MEMBERS = 100_000

NO_STORED_WEIGHTS = "no weights are stored"
"""The reason why a model has no weights, if its metadata state no other reason."""

Spec = Annotated[dict[Text, Scalar], msgspec.Meta(max_length=MAX_ATTRIBUTES)]
"""Attributes of a machine: processor, cores, chips, memory (GiB), frequency (MHz)."""


class NodeTypeEntry(msgspec.Struct):
    """The entry of a node type in `node_type_index.json`: attributes and names of the machines that belong to it."""

    attrs: Spec = {}
    members: Annotated[list[Scalar], msgspec.Meta(max_length=MAX_MEMBERS)] | None = None


NodeTypeIndex = Annotated[dict[Text, NodeTypeEntry], msgspec.Meta(max_length=MAX_NODE_TYPES)]


class ModelHead(msgspec.Struct):
    """The members of a model's `metadata.json` that are needed to select a model."""

    features: Annotated[list[Text], msgspec.Meta(max_length=MAX_FEATURES)]
    machine_spec: Spec = {}
    no_weights: Text = NO_STORED_WEIGHTS
    """The reason why the model has no weights (`kepler_core.models.kepler_weights.NO_WEIGHTS_KEY`)."""


_OBJECT_FILES = re.compile(rf"profiles/[^/]+\.json|(?:[^/]+/){{4}}{re.escape(WEIGHT_FILE)}|(?:[^/]+/){{3}}[^/]+\.json")
"""Paths of files that must contain a JSON object: profiles and weight files.

A weight file is in a model's folder, or beside a model's zip file.
"""

_node_types = msgspec.json.Decoder(NodeTypeIndex)


def decode_node_types(content: bytes, where: str) -> dict[int, NodeTypeEntry]:
    """Return the entries of `node_type_index.json`. Each key is the number of a node type.

    Raises `StoreError` if the file is malformed.
    """
    try:
        entries = decode_json(content, _node_types)
    except DocumentError as error:
        raise StoreError(f"{where}: {error.message}") from error
    for number in entries:
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            raise StoreError(f"{where}: {number[:40]!r} is not the number of a node type")
    return {int(number): entry for number, entry in entries.items()}


def decode_model(content: bytes, where: str) -> tuple[dict[str, Any], ModelHead]:
    """Return a model's metadata as a dict, and its members that `ModelHead` lists.

    Raises `StoreError` if the metadata are malformed.
    """
    try:
        metadata = decode_object(content)
        return metadata, msgspec.convert(metadata, ModelHead)
    except (DocumentError, msgspec.ValidationError) as error:
        raise StoreError(f"{where}: {error}") from error


def check_document(name: str, content: bytes, where: str) -> None:
    """Raise `StoreError` if a file of a pipeline is a document that does not fit its schema.

    `name` is the file's path below the pipeline. Files that model formats and listeners write have no schema
    and are not checked.
    """
    base_name = name.rpartition("/")[2]
    if base_name in (METADATA_FILE, MODEL_FILE, WEIGHT_FILE) and len(content) > MAX_DOCUMENT_BYTES:
        raise StoreError(f"{where}: {name} has {len(content)} bytes, at most {MAX_DOCUMENT_BYTES} are allowed")
    if name == NODE_TYPE_INDEX:
        decode_node_types(content, f"{where}: {name}")
    elif base_name == METADATA_FILE and base_name != name:
        decode_model(content, f"{where}: {name}")
    elif base_name == MODEL_FILE or name == METADATA_FILE or _OBJECT_FILES.fullmatch(name):
        try:
            if base_name == MODEL_FILE:
                decode_json(content, ModelFile)
            else:
                decode_object(content)
        except DocumentError as error:
            raise StoreError(f"{where}: {name} is damaged: {error.message}") from error


def check_documents(files: Mapping[str, bytes], where: str) -> None:
    """Raise `StoreError` if a document in `files` (a mapping from path to content) does not fit its schema.

    The error is also raised if a file with the model of one component is larger than `MAX_COMPONENT_BYTES`. Loading
    such a model would fail.
    """
    for name in sorted(files):
        check_document(name, files[name], where)
        folder, _, base_name = name.rpartition("/")
        if base_name == MODEL_FILE:
            _check_components(folder, decode_json(files[name], ModelFile), files, where)


def _check_components(folder: str, layout: ModelFile, files: Mapping[str, bytes], where: str) -> None:
    for part in layout.components.values():
        path = f"{folder}/{part.file}"
        if len(files.get(path, b"")) > MAX_COMPONENT_BYTES:
            raise StoreError(
                f"{where}: {path} has {len(files[path])} bytes, at most {MAX_COMPONENT_BYTES} are allowed for the "
                "model of a component"
            )
