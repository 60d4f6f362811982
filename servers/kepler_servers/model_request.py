"""Decode and check the requests for models that clients send.

Unknown keys are ignored, because newer clients may send more keys. A request is rejected if the value of a known key
has a wrong type. Only flags and numbers may be text (see `text_values`), because older clients send them as text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from kepler_core.documents import MAX_NUMBER
from kepler_core.errors import RequestError, close_matches
from kepler_core.machine import MAX_ATTRIBUTE
from kepler_core.messages import quoted
from kepler_core.selection import ModelRequest
from kepler_core.selection.filters import parse_filter
from kepler_core.selection.request import DEFAULT_SOURCE
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType
from kepler_servers.http.bodies import decode_json
from kepler_servers.http.text_values import FlagText, NumberText, flag, whole_number, with_numbers

MAX_TEXT = 1000
"""Maximum number of characters of a text in a request."""
MAX_METRICS = 500

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
MAX_NODE_TYPE = 2**31
Count = (
    Annotated[int, Meta(ge=0, le=MAX_ATTRIBUTE)] | Annotated[float, Meta(ge=0, le=float(MAX_ATTRIBUTE))] | NumberText
)
Flag = bool | FlagText


class MachineSpec(msgspec.Struct, omit_defaults=True):
    """The description of a machine in a request. 0 or an empty text means that a value is unknown."""

    vendor: Text | None = None
    processor: Text | None = None
    cores: Count | None = None
    chips: Count | None = None
    memory: Count | None = None
    """Memory in GiB."""
    frequency: Count | None = None
    """Frequency in MHz."""
    threads_per_core: Count | None = None


class ModelRequestBody(msgspec.Struct, omit_defaults=True):
    """The body of `POST /model`."""

    metrics: Annotated[list[Text], Meta(max_length=MAX_METRICS)]
    output_type: Annotated[str, Meta(max_length=MAX_TEXT, extra_json_schema={"enum": list(OUTPUT_TYPES)})]
    """The decoder accepts any text here, so that the error for an unknown name can suggest similar names."""
    weight: Flag | None = None
    filter: Text | None = None
    source: Text | None = None
    trainer_name: Text | None = None
    pipeline_name: Text | None = None
    node_type: (
        Annotated[int, Meta(ge=-1, le=MAX_NODE_TYPE)]
        | Annotated[float, Meta(ge=-1, le=float(MAX_NODE_TYPE), extra_json_schema={"multipleOf": 1})]
        | NumberText
        | None
    ) = None
    machine_spec: MachineSpec | None = None
    spec: MachineSpec | None = None
    """The estimator of kepler-model-server 0.7 sends the key `spec` in place of `machine_spec`."""
    loose_node_type: Flag | None = None
    portable: Flag | None = None
    """Whether the client is the estimator of Kepler Core. Such a client gets a model that Kepler Core can load, or
    weights."""


_decoder = msgspec.json.Decoder(ModelRequestBody)
_keys_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OLD_KEYS = {"metrics", "output_type", "source", "filter", "trainer_name"}


def read_model_request(body: bytes) -> ModelRequest:
    """Return the request in a JSON body, or raise `RequestError`, which names the key with a wrong value."""
    request = decode_json(body, _decoder)
    machine_spec = request.spec if request.machine_spec is None else request.machine_spec
    spec = {} if machine_spec is None else msgspec.to_builtins(machine_spec)
    return ModelRequest(
        output_type=checked_output_type(request.output_type),
        metrics=tuple(request.metrics),
        source=request.source or DEFAULT_SOURCE,
        pipeline=request.pipeline_name or None,
        trainer=request.trainer_name or None,
        filter=parse_filter(request.filter or ""),
        node_type=_node_type(whole_number(request.node_type, "node_type", -1, MAX_NODE_TYPE), machine_spec is not None),
        machine_spec=with_numbers(spec, "spec" if request.machine_spec is None else "machine_spec"),
        loose_node_type=flag(request.loose_node_type, "loose_node_type") is not False,
        weights=bool(flag(request.weight, "weight")),
        portable=bool(flag(request.portable, "portable")),
        pickled=_is_of_old_estimator(request, body),
    )


def _is_of_old_estimator(request: ModelRequestBody, body: bytes) -> bool:
    """Return whether a request has the keys of the estimator of kepler-model-server, which can load only pickles.

    This estimator sends the keys in `_OLD_KEYS`, in newer releases also `spec`, and no other keys
    (`make_model_request` in its `model_server_connector.py`). `body` is the JSON text of the request.
    """
    if any(value is not None for value in (request.weight, request.machine_spec, request.portable)):
        return False
    return request.spec is not None or decode_json(body, _keys_decoder).keys() == _OLD_KEYS


def checked_output_type(name: str) -> OutputType:
    """Return the output type with this name, or raise `RequestError` if no output type has this name."""
    for output_type in OUTPUT_TYPES:
        if output_type == name:
            return output_type
    raise RequestError("output_type", f"unknown output type {quoted(name)}; {close_matches(name[:60], OUTPUT_TYPES)}")


def _node_type(number: int | None, has_spec: bool) -> int | None:
    # Kepler 0.7 never sets the number of the node type, and sends 0. So 0 beside a machine's description means that
    # no node type is requested.
    if number is None or number < 0 or (number == 0 and has_spec):
        return None
    return number


def integers(spec: Mapping[str, Any]) -> dict[str, int | str]:
    """Return the description of a machine in the form that Kepler can read.

    All numbers are integers, and unknown values are left out.
    """
    values: dict[str, int | str] = {}
    for key, value in spec.items():
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, int | float):
            if value == value and abs(value) < MAX_NUMBER:
                values[key] = round(value)
        elif isinstance(value, str):
            values[key] = value
    return values
