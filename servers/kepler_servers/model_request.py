"""Requests for a model as clients send them, checked.

Keys that are not ours are ignored: newer clients may send more. A key of ours with a value of another
type is refused, never converted.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec

from kepler_core.errors import RequestError, close_matches
from kepler_core.selection import ModelRequest
from kepler_core.selection.filters import parse_filter
from kepler_core.selection.request import DEFAULT_SOURCE
from kepler_core.vocabulary import OUTPUT_TYPES, OutputType

MAX_TEXT = 1000
MAX_METRICS = 500

Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)] | Annotated[float, msgspec.Meta(ge=0, le=1e12)]

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")


class MachineSpec(msgspec.Struct, omit_defaults=True):
    """A machine, as its Kepler describes it. 0 and empty text mean that it is not known."""

    vendor: Text | None = None
    processor: Text | None = None
    cores: Count | None = None
    chips: Count | None = None
    memory: Count | None = None
    """GiB."""
    frequency: Count | None = None
    """MHz."""
    threads_per_core: Count | None = None


class ModelRequestBody(msgspec.Struct, omit_defaults=True):
    """The body of `POST /model`."""

    metrics: Annotated[list[Text], msgspec.Meta(max_length=MAX_METRICS)]
    output_type: Text
    weight: bool | None = None
    filter: Text | None = None
    source: Text | None = None
    trainer_name: Text | None = None
    pipeline_name: Text | None = None
    node_type: Annotated[int, msgspec.Meta(ge=-1, le=2**31)] | None = None
    machine_spec: MachineSpec | None = None
    loose_node_type: bool | None = None
    portable: bool | None = None
    """Only models that Kepler Core itself can load."""


_decoder = msgspec.json.Decoder(ModelRequestBody)


def read_model_request(body: bytes) -> ModelRequest:
    """A request from its JSON; `RequestError` names the key that is wrong."""
    try:
        found = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _request_error(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError("body", f"not a JSON object: {error}") from None
    except RecursionError:
        raise RequestError("body", "nested too deeply") from None
    spec = {} if found.machine_spec is None else msgspec.to_builtins(found.machine_spec)
    return ModelRequest(
        output_type=checked_output_type(found.output_type),
        metrics=tuple(found.metrics),
        source=found.source or DEFAULT_SOURCE,
        pipeline=found.pipeline_name or None,
        trainer=found.trainer_name or None,
        filter=parse_filter(found.filter or ""),
        node_type=_node_type(found.node_type, found.machine_spec is not None),
        machine_spec=spec,
        loose_node_type=found.loose_node_type is not False,
        weights=bool(found.weight),
        portable=bool(found.portable),
    )


def checked_output_type(name: str) -> OutputType:
    """The output type, or `RequestError`."""
    for known in OUTPUT_TYPES:
        if known == name:
            return known
    raise RequestError("output_type", f"unknown output type {name[:60]!r}; {close_matches(name[:60], OUTPUT_TYPES)}")


def _node_type(given: int | None, has_spec: bool) -> int | None:
    # Kepler never sets it, so its 0 beside a machine's description means nothing
    if given is None or given < 0 or (given == 0 and has_spec):
        return None
    return given


def _request_error(message: str) -> RequestError:
    path = _PATH.search(message)
    key = path[1] if path else ""
    what = message[: path.start()] if path else message
    if not key and (missing := re.search(r"missing required field `([^`]*)`", what)):
        return RequestError(missing[1], "missing")
    what = _TYPES.sub(lambda found: _in_words(found[1]), what)
    return RequestError(key or "body", what[:1].lower() + what[1:])


_TYPES = re.compile(r"`([a-z |]+)`")
_WORDS = {
    "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "array": "a list",
    "object": "an object",
}  # fmt: skip


def _in_words(types: str) -> str:
    """msgspec's names of types as words: `int | float | null` is "a number"."""
    names = [name for name in types.split(" | ") if name != "null"]
    if "float" in names and "int" in names:
        names.remove("int")
    return " or ".join(_WORDS.get(name, name) for name in names) or "null"


def integers(spec: Any) -> dict[str, Any]:
    """A machine's description as the client takes it: numbers as JSON integers, unknown ones left out."""
    found: dict[str, Any] = {}
    for key, value in spec.items():
        if isinstance(value, bool) or value is None:
            continue
        if isinstance(value, int | float):
            if value == value and abs(value) < 2**53:
                found[key] = round(value)
        elif isinstance(value, str):
            found[key] = value
    return found
