"""Pipelines in which one JSON document is malformed."""

from __future__ import annotations

import json
from collections.abc import Callable

from support.small_pipelines import SmallModel, linear, pipeline

HUGE = b"1" + b"0" * 400
"""A whole number that is too large for a double."""

INDEX = "node_type_index.json"
METADATA = f"{SmallModel().path}/metadata.json"


def _index(attributes: bytes, members: bytes = b"[]") -> bytes:
    return b'{"0":{"attrs":' + attributes + b',"members":' + members + b"}}"


def _metadata(member: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:-1] + b"," + member + b"}"


CHANGES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "huge-cores": (INDEX, lambda _: _index(b'{"cores":' + HUGE + b"}")),
    "huge-mae": (METADATA, _metadata(b'"platform_mae":' + HUGE)),
    "members-is-a-number": (INDEX, lambda _: _index(b"{}", b"5")),
    "number-of-a-node-type": (INDEX, lambda _: b'{"' + b"9" * 5000 + b'":{"attrs":{}}}'),
    "attribute-is-a-list": (INDEX, lambda _: _index(b'{"cores":[96]}')),
    "invalid-utf-8": (METADATA, _metadata(b'"note":"\xff"')),
    "deeply-nested": (METADATA, _metadata(b'"note":' + b"[" * 90 + b"]" * 90)),
    "nested-beyond-the-stack": (METADATA, _metadata(b'"note":' + b"[" * 200_000 + b"]" * 200_000)),
    "features-is-text": (METADATA, lambda content: content.replace(b'"features": [', b'"features": 5, "more": [')),
}
"""For each change: the path of a document, and a function that makes the document malformed."""


def malformed(change: str) -> dict[str, bytes]:
    """Return the files of a pipeline in which the change named `change` has made one document malformed."""
    files = pipeline(SmallModel(weights={"package": linear(1.0)}))
    name, edit = CHANGES[change]
    assert json.loads(files[name])
    files[name] = edit(files[name])
    return files
