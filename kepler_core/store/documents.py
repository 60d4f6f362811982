"""The documents of a pipeline: one schema with bounds for each, used by import, publish, verify and reading."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from kepler_core.documents import DocumentError, Scalar, Text, decode_json, decode_object
from kepler_core.errors import StoreError
from kepler_core.models.power_model import METADATA_FILE, MODEL_FILE, WEIGHT_FILE, ModelFile
from kepler_core.store.layout import NODE_TYPE_INDEX

MAX_FEATURES = 1000
MAX_NODE_TYPES = 100_000
MAX_ATTRIBUTES = 100
MAX_MEMBERS = 100_000

Spec = Annotated[dict[Text, Scalar], msgspec.Meta(max_length=MAX_ATTRIBUTES)]
"""Attributes of a machine: processor, cores, chips, memory (GiB), frequency (MHz)."""


class NodeTypeEntry(msgspec.Struct):
    """An entry of `node_type_index.json`."""

    attrs: Spec = {}
    members: Annotated[list[Scalar], msgspec.Meta(max_length=MAX_MEMBERS)] | None = None


NodeTypeIndex = Annotated[dict[Text, NodeTypeEntry], msgspec.Meta(max_length=MAX_NODE_TYPES)]


class ModelHead(msgspec.Struct):
    """The members of a model's `metadata.json` that a choice among models needs."""

    features: Annotated[list[Text], msgspec.Meta(max_length=MAX_FEATURES)]
    machine_spec: Spec = {}


_OBJECT_FILES = re.compile(rf"profiles/[^/]+\.json|(?:[^/]+/){{4}}{re.escape(WEIGHT_FILE)}|(?:[^/]+/){{3}}[^/]+\.json")
"""Profiles, and the weights in a model's folder and beside it."""

_node_types = msgspec.json.Decoder(NodeTypeIndex)


def decode_node_types(content: bytes, where: str) -> dict[int, NodeTypeEntry]:
    """Return the entries of `node_type_index.json` by number; `StoreError` if the index is malformed."""
    try:
        entries = decode_json(content, _node_types)
    except DocumentError as error:
        raise StoreError(f"{where}: {error.message}") from error
    for number in entries:
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            raise StoreError(f"{where}: {number[:40]!r} is not the number of a node type")
    return {int(number): entry for number, entry in entries.items()}


def decode_model(content: bytes, where: str) -> tuple[dict[str, Any], ModelHead]:
    """Return a model's metadata, and its typed members; `StoreError` if the document is malformed."""
    try:
        metadata = decode_object(content)
        return metadata, msgspec.convert(metadata, ModelHead)
    except (DocumentError, msgspec.ValidationError) as error:
        raise StoreError(f"{where}: {error}") from error


def check_document(name: str, content: bytes, where: str) -> None:
    """Raise `StoreError` if a file of a pipeline is a document that does not fit its schema.

    `name` is the file's path below the pipeline. Files of model formats and of listeners have no schema.
    """
    base_name = name.rpartition("/")[2]
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
    """Raise `StoreError` for the first document of a pipeline, by name, that does not fit its schema."""
    for name in sorted(files):
        check_document(name, files[name], where)
