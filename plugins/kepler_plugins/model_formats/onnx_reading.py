"""Reader of ONNX models that does without the `onnx` package, which takes too much memory for a resident process.

The reader accepts only some of the fields in onnx.proto. It rejects a model with any other field, and a model with two
values of a field that is not declared as repeated. So this reader reads everything in a model that ONNX Runtime reads
later, and `onnx_checks` checks it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence

import attrs
import numpy as np

from kepler_core.arrays import SingleArray
from kepler_core.errors import ModelError
from kepler_plugins.model_formats.protobuf_fields import Field, fields, unpack_integers

# Numbers of the accepted fields in onnx.proto (ONNX 1.20). Fields with subgraphs, functions, sparse tensors or data
# in other files are left out on purpose: the reader rejects a model that has them.
_MODEL_GRAPH, _MODEL_OPSETS = 7, 8
_MODEL_FIELDS = {1, 2, 3, 4, 5, 6, _MODEL_GRAPH, _MODEL_OPSETS, 14}
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_GRAPH_FIELDS = {_GRAPH_NODE, 2, _GRAPH_INITIALIZER, 10, _GRAPH_INPUT, _GRAPH_OUTPUT, 13, 16}
_NODE_INPUT, _NODE_OUTPUT, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 4, 5, 7
_NODE_FIELDS = {_NODE_INPUT, _NODE_OUTPUT, 3, _NODE_OPERATOR, _NODE_ATTRIBUTE, 6, _NODE_DOMAIN, 9}
_ATTRIBUTE_NAME, _ATTRIBUTE_INTEGER, _ATTRIBUTE_STRING, _ATTRIBUTE_TENSOR = 1, 3, 4, 5
_ATTRIBUTE_FLOATS, _ATTRIBUTE_INTEGERS, _ATTRIBUTE_STRINGS = 7, 8, 9
_ATTRIBUTE_FIELDS = {1, 2, 3, 4, 5, 7, 8, 9, 13, 20}
_TENSOR_DIMENSIONS = 1
_TENSOR_DATA = {4, 5, 7, 9, 10, 11}
"""Fields with a tensor's numbers: float_data, int32_data, int64_data, raw_data, double_data and uint64_data."""
_TENSOR_FIELDS = {_TENSOR_DIMENSIONS, 2, 8, 12, *_TENSOR_DATA}
_VALUE_NAME = 1
_OPSET_DOMAIN = 1


@attrs.frozen(eq=False)
class Attribute:
    """An attribute of a graph node, as the protobuf fields that hold the attribute's values."""

    fields: Sequence[Field]

    @property
    def integers(self) -> list[int]:
        """The attribute's integers. A single integer is a list of length 1."""
        numbers: list[int] = []
        for number, value in self.fields:
            if number in (_ATTRIBUTE_INTEGERS, _ATTRIBUTE_INTEGER):
                numbers += unpack_integers(value) if isinstance(value, bytes) else [value]
        return numbers

    @property
    def floats(self) -> SingleArray:
        """The attribute's list of numbers in single precision."""
        packed = [value for number, value in self.fields if number == _ATTRIBUTE_FLOATS and isinstance(value, bytes)]
        return np.frombuffer(b"".join(packed), dtype="<f4")

    @property
    def strings(self) -> list[bytes]:
        """The attribute's strings. A single string is a list of length 1."""
        return [
            value
            for number, value in self.fields
            if number in (_ATTRIBUTE_STRINGS, _ATTRIBUTE_STRING) and isinstance(value, bytes)
        ]


@attrs.frozen(eq=False)
class Node:
    """A node of an ONNX graph, which calls one operator."""

    domain: str
    operator: str
    inputs: list[bytes]
    outputs: list[bytes]
    attributes: dict[bytes, Attribute]


@attrs.frozen(eq=False)
class Graph:
    """The graph of an ONNX model."""

    domains: set[str]
    """Domains of the operator sets that the model imports."""
    nodes: list[Node]
    outputs: list[bytes]
    """Names of the graph's outputs."""


def read_graph(model: bytes) -> Graph:
    """Return the graph of an ONNX model.

    Raises `ModelError` if the model is malformed, or if it has a field that the reader does not accept.
    """
    try:
        members = _members(model, "the model", _MODEL_FIELDS, {_MODEL_OPSETS, 14})
        graph = _members(
            _only(members, _MODEL_GRAPH),
            "the graph",
            _GRAPH_FIELDS,
            {_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, 13, 16},
        )
        for tensor in _messages(graph, _GRAPH_INITIALIZER):
            _check_tensor(tensor)
        return Graph(
            {_text(list(fields(opset)), _OPSET_DOMAIN) for opset in _messages(members, _MODEL_OPSETS)},
            [_node(node) for node in _messages(graph, _GRAPH_NODE)],
            [_only(list(fields(output)), _VALUE_NAME) for output in _messages(graph, _GRAPH_OUTPUT)],
        )
    except (ValueError, LookupError, struct.error) as error:
        raise ModelError(f"not an ONNX model that Kepler Core reads: {error}") from None


def _node(message: bytes) -> Node:
    members = _members(message, "a node", _NODE_FIELDS, {_NODE_INPUT, _NODE_OUTPUT, _NODE_ATTRIBUTE, 9})
    attributes: dict[bytes, Attribute] = {}
    for content in _messages(members, _NODE_ATTRIBUTE):
        values = _members(
            content,
            "an attribute",
            _ATTRIBUTE_FIELDS,
            {_ATTRIBUTE_FLOATS, _ATTRIBUTE_INTEGERS, _ATTRIBUTE_STRINGS},
        )
        name = _only(values, _ATTRIBUTE_NAME)
        if name in attributes:
            raise ValueError("a node has an attribute twice")
        for tensor in _messages(values, _ATTRIBUTE_TENSOR):
            _check_tensor(tensor)
        attributes[name] = Attribute(values)
    return Node(
        _text(members, _NODE_DOMAIN),
        _text(members, _NODE_OPERATOR),
        _messages(members, _NODE_INPUT),
        _messages(members, _NODE_OUTPUT),
        attributes,
    )


def _check_tensor(message: bytes) -> None:
    """Raise `ValueError` if a tensor has more elements than bytes.

    The data of such a tensor is in another file.
    """
    members = _members(message, "a tensor", _TENSOR_FIELDS, {_TENSOR_DIMENSIONS, *_TENSOR_DATA})
    elements = 1
    for number, value in members:
        if number == _TENSOR_DIMENSIONS:
            elements *= math.prod(unpack_integers(value) if isinstance(value, bytes) else [value])
    if not 0 <= elements <= len(message):
        raise ValueError(f"a tensor states {elements} elements, but has {len(message)} bytes")


def _members(message: bytes, what: str, known: Collection[int], repeated: Collection[int]) -> list[Field]:
    """Return the fields of a protobuf message.

    `known` fields may appear once, `repeated` fields any number of times. Raises `ValueError` if the message has any
    other field, or has a `known` field twice. `what` names the message in error messages.
    """
    members = list(fields(message))
    seen = set()
    for number, _ in members:
        if number not in repeated:
            if number not in known:
                raise ValueError(f"{what} has field {number} of onnx.proto, which is not supported")
            if number in seen:
                raise ValueError(f"{what} has field {number} of onnx.proto twice")
            seen.add(number)
    return members


def _messages(members: Sequence[Field], number: int) -> list[bytes]:
    """Return the submessages or strings in the field `number`. Raises `ValueError` if a value is an integer."""
    values = [value for key, value in members if key == number]
    if not all(isinstance(value, bytes) for value in values):
        raise ValueError(f"the value of field {number} is an integer instead of bytes")
    return [value for value in values if isinstance(value, bytes)]


def _only(members: Sequence[Field], number: int) -> bytes:
    (value,) = _messages(members, number)
    return value


def _text(members: Sequence[Field], number: int) -> str:
    values = _messages(members, number)
    return values[-1].decode() if values else ""
