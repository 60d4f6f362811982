"""`POST /train`: the request, in the words of old clients (WIRE) or as a whole pipeline.

    {"name": "...", "energy_source": "rapl", "trainer": {"abs_trainers": [...], "dyn_trainers": [...],
     "isolator": "...", "isolator_args": {...}, "idle_prom_response": {...}},
     "prome_response": {...}, "use_vm_metrics": false}

    {"pipeline": {...all keys of a pipeline file...}, "prom_response": {...}, "idle_prom_response": {...},
     "machine_spec": {...}}

Recordings stay where they are, in the file, until they are read. Everything else becomes the pipeline's
own classes, so that what a pipeline file may say, a request may say.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import cattrs
import msgspec

from kepler_core.errors import PipelineError, RecordingError, RequestError, UsageError
from kepler_core.machine import Machine, machine_spec_from
from kepler_core.pipeline.load import pipeline_from, resolved
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.recording.reader import check_shape
from kepler_core.strict import structure, structuring_error

MAX_WORDS = 2**20
"""Bytes of a request without its recordings."""

_DATA = ("prome_response", "prom_response")
_IDLE = "idle_prom_response"
_REQUEST = "request"
_ISOLATOR: Any = attrs.fields(PipelineSpec).isolator.default


@attrs.frozen
class TrainerSection:
    """The key `trainer`."""

    abs_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    dyn_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    isolator: PluginSpec = _ISOLATOR
    isolator_args: dict[str, Any] = attrs.field(factory=dict[str, Any])
    idle_prom_response: dict[str, Any] | None = None
    """A recording of the idle machine."""


@attrs.frozen
class SimpleRequest:
    """What old clients send."""

    name: str
    energy_source: str
    trainer: TrainerSection
    prome_response: dict[str, Any] | None = None
    """The recording: Prometheus range-query results by metric name."""
    prom_response: dict[str, Any] | None = None
    """The same under another name; one of them is needed."""
    idle_prom_response: dict[str, Any] | None = None
    """As in `trainer`."""
    machine_spec: dict[str, Any] | None = None
    """What the machine is; without it, the models are of an unknown machine."""
    use_vm_metrics: bool = False


@attrs.frozen
class PipelineRequest:
    """A whole pipeline."""

    pipeline: PipelineSpec
    prome_response: dict[str, Any] | None = None
    prom_response: dict[str, Any] | None = None
    idle_prom_response: dict[str, Any] | None = None
    machine_spec: dict[str, Any] | None = None


@attrs.frozen(eq=False)
class TrainRequest:
    """A request that is right as far as can be told without reading the samples."""

    pipeline: PipelineSpec
    """With every plugin's full name."""
    recording: msgspec.Raw
    idle: msgspec.Raw | None
    machine: Machine | None


def read_request(path: Path) -> TrainRequest:
    """The request in a file; `RequestError` names the key that is wrong, and what would be right.

    The file stays mapped, not read, as long as the request is used.
    """
    with path.open("rb") as file:
        return request_from(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def request_from(body: bytes | mmap.mmap) -> TrainRequest:
    """The request in these bytes; see `read_request`."""
    members = _members(body, "body")
    data = {key: members.pop(key) for key in (*_DATA, _IDLE) if key in members}
    trainer: dict[str, msgspec.Raw] | None = None
    if "pipeline" not in members and "trainer" in members:
        trainer = _members(members["trainer"], "trainer")
        if _IDLE in trainer:
            if _given(data.get(_IDLE)):
                raise RequestError(f"trainer.{_IDLE}", f"given here and as {_IDLE}; one of them is enough")
            data[_IDLE] = trainer.pop(_IDLE)
    document = _document(members, trainer)
    spec = _pipeline(document)
    machine = _machine(document.get("machine_spec"))
    given = [key for key in _DATA if _given(data.get(key))]
    if len(given) > 1:
        raise RequestError("prom_response", "given here and as prome_response; one of them is enough")
    if not given:
        raise RequestError("prom_response", "missing: the recording to train from")
    idle = data.get(_IDLE)
    for key in (*given, *([_IDLE] if _given(idle) else [])):
        try:
            check_shape(data[key], key)
        except RecordingError as error:
            raise RequestError(key, str(error).removeprefix(f"{key}: ")) from error
    return TrainRequest(spec, data[given[0]], idle if _given(idle) else None, machine)


def _members(body: Any, where: str) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise RequestError(where, "not a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(where, f"not JSON: {error}") from None
    except RecursionError:
        raise RequestError(where, "nested too deeply") from None


def _given(raw: msgspec.Raw | None) -> bool:
    return raw is not None and bytes(memoryview(raw)[:5]).strip() != b"null"


def _document(members: Mapping[str, msgspec.Raw], trainer: Mapping[str, msgspec.Raw] | None) -> dict[str, Any]:
    """All but the recordings, decoded. An optional key that is null is as if it were absent."""
    size = sum(memoryview(raw).nbytes for key, raw in members.items() if key != "trainer" or trainer is None)
    size += sum(memoryview(raw).nbytes for raw in (trainer or {}).values())
    if size > MAX_WORDS:
        raise RequestError("body", f"more than {MAX_WORDS} bytes besides the recordings")
    document = {key: _decoded(raw, key) for key, raw in members.items() if key != "trainer" or trainer is None}
    if trainer is not None:
        document["trainer"] = {key: _decoded(raw, f"trainer.{key}") for key, raw in trainer.items()}
        for key in ("isolator", "isolator_args"):
            if document["trainer"].get(key, ...) is None:
                del document["trainer"][key]
    for key in ("machine_spec", "use_vm_metrics"):
        if document.get(key, ...) is None:
            del document[key]
    return document


def _decoded(raw: msgspec.Raw, key: str) -> Any:
    try:
        return msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(key, f"not JSON: {error}") from None
    except RecursionError:
        raise RequestError(key, "nested too deeply") from None


def _pipeline(document: Mapping[str, Any]) -> PipelineSpec:
    request: SimpleRequest
    try:
        if "pipeline" in document:
            if clash := [key for key in ("name", "energy_source", "trainer", "use_vm_metrics") if key in document]:
                raise RequestError(clash[0], "a key of the pipeline, where the request has one")
            asked: PipelineRequest = structure(document, PipelineRequest)
            return resolved(asked.pipeline, "pipeline")
        request = structure(document, SimpleRequest)
        request = structure(document, SimpleRequest)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        raise _keyed(structuring_error(error)) from error
    except PipelineError as error:
        raise _keyed(_key_in("pipeline", str(error).removeprefix("pipeline: "))) from error
    section: TrainerSection = request.trainer
    isolator = section.isolator
    if twice := sorted(isolator.args.keys() & section.isolator_args.keys()):
        raise RequestError(f"trainer.isolator_args.{twice[0]}", "given in the isolator's args too")
    try:
        return pipeline_from(
            {
                "name": request.name,
                "energy_sources": [request.energy_source],
                "abs_trainers": [attrs.asdict(plugin) for plugin in section.abs_trainers],
                "dyn_trainers": [attrs.asdict(plugin) for plugin in section.dyn_trainers],
                "isolator": {"name": isolator.name, "args": {**isolator.args, **section.isolator_args}},
                "use_vm_metrics": request.use_vm_metrics,
            },
            _REQUEST,
        )
    except PipelineError as error:
        # the pipeline's names of keys, in those of the request
        text = str(error).removeprefix(f"{_REQUEST}: ").replace("energy_sources[0]: ", "energy_source: ", 1)
        in_trainer = text.startswith(("abs_trainers", "dyn_trainers", "isolator", "names no trainer"))
        raise _keyed(_key_in("trainer", text) if in_trainer else text) from error


def _key_in(section: str, message: str) -> str:
    """`key: what is wrong` of a section's key, or what is wrong with the section, with the whole path."""
    return f"{section}{': ' if ' ' in message.partition(': ')[0] else '.'}{message}"


def _machine(document: Any) -> Machine | None:
    if document is None:
        return None
    try:
        return Machine(machine_spec_from(document, "machine_spec"))
    except UsageError as error:
        raise _keyed(str(error)) from error


def _keyed(message: str) -> RequestError:
    """`key: what is wrong` as an error that knows its key."""
    key, colon, rest = message.partition(": ")
    if not colon or " " in key:
        return RequestError("body", message)
    return RequestError(key, rest)
