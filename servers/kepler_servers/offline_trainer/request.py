"""The JSON body of `POST /train`, in one of two formats.

The format of earlier clients:

    {"name": "...", "energy_source": "rapl", "trainer": {"abs_trainers": [...], "dyn_trainers": [...],
     "isolator": "...", "isolator_args": {...}, "idle_prom_response": {...}},
     "prome_response": {...}, "use_vm_metrics": false}

The format with a whole pipeline:

    {"pipeline": {...all keys of a pipeline file...}, "prom_response": {...}, "idle_prom_response": {...},
     "machine_spec": {...}}

Earlier clients may send flags and numbers as text (see `kepler_servers.http.text_values`). Text is accepted for
`use_vm_metrics`, `isolator_args` and `machine_spec`, but not in `pipeline`.

The file with the body is mapped into memory, and recordings are decoded from it only when they are needed. The
pipeline is converted to the same classes as pipeline files, so that a request accepts exactly what a pipeline file
accepts.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
import msgspec

from kepler_core.documents import DocumentError, decode_json, decode_value
from kepler_core.errors import PipelineError, RecordingError, RequestError, UsageError, path_text
from kepler_core.machine import Machine, machine_spec_from
from kepler_core.messages import printable
from kepler_core.pipeline.load import pipeline_from, resolved
from kepler_core.pipeline.spec import PipelineSpec, PluginSpec
from kepler_core.recording.reader import check_shape
from kepler_core.strict import structure, structuring_problem
from kepler_servers.http.text_values import flag, with_numbers
from kepler_servers.offline_trainer.text_arguments import OLD_NAMES, isolator_arguments

T = TypeVar("T")

MAX_DOCUMENT_BYTES = 2**20
"""Maximum size of a request without its recordings."""

RECORDING_KEY = "prom_response"
OLD_RECORDING_KEY = "prome_response"
"""Key of the recording in requests of earlier clients."""
IDLE_KEY = "idle_prom_response"

_TRAINER_KEYS = ("abs_trainers", "dyn_trainers", "isolator")
_DEFAULT_ISOLATOR: Any = attrs.fields(PipelineSpec).isolator.default


@attrs.frozen
class TrainerSection:
    """The object under the key `trainer` of a `SimpleRequest`."""

    abs_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    dyn_trainers: list[PluginSpec] = attrs.field(factory=list[PluginSpec])
    isolator: PluginSpec = _DEFAULT_ISOLATOR
    isolator_args: dict[str, Any] = attrs.field(factory=dict[str, Any])
    idle_prom_response: dict[str, Any] | None = None
    """A recording of the idle machine."""


@attrs.frozen
class SimpleRequest:
    """A training request in the format of earlier clients."""

    name: str
    energy_source: str
    trainer: TrainerSection
    prome_response: dict[str, Any] | None = None
    """The recording: Prometheus range-query results by metric name."""
    prom_response: dict[str, Any] | None = None
    """The recording. This key is newer than `prome_response`; a request has only one of the two keys."""
    idle_prom_response: dict[str, Any] | None = None
    """A recording of the idle machine. `trainer.idle_prom_response` is an alternative key."""
    machine_spec: dict[str, Any] | None = None
    """Description of the machine. If it is missing, the models belong to the node type without attributes."""
    use_vm_metrics: bool = False


@attrs.frozen
class PipelineRequest:
    """A training request with a whole pipeline. See `SimpleRequest` for the other keys."""

    pipeline: PipelineSpec
    prome_response: dict[str, Any] | None = None
    prom_response: dict[str, Any] | None = None
    idle_prom_response: dict[str, Any] | None = None
    machine_spec: dict[str, Any] | None = None


@attrs.frozen(eq=False)
class TrainRequest:
    """A checked training request. Everything was checked, except the samples of its recordings."""

    pipeline: PipelineSpec
    """The pipeline to train, in which aliases of plugins are replaced by the plugins' names."""
    recording: msgspec.Raw
    idle: msgspec.Raw | None
    machine: Machine | None


def read_request(path: Path) -> TrainRequest:
    """Read the training request in a file. Raises `RequestError` with the first wrong key.

    The file stays mapped into memory as long as the returned object exists.
    """
    with path.open("rb") as file:
        return request_from(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def request_from(body: bytes | mmap.mmap) -> TrainRequest:
    """Check the JSON of a training request, and return the request. Raises `RequestError` if the JSON is invalid."""
    members = _members(body, "body")
    recordings = {key: members.pop(key) for key in (OLD_RECORDING_KEY, RECORDING_KEY, IDLE_KEY) if key in members}
    trainer: dict[str, msgspec.Raw] | None = None
    if "pipeline" not in members and "trainer" in members:
        trainer = _members(members.pop("trainer"), "trainer")
        if IDLE_KEY in trainer:
            if _has_value(recordings.get(IDLE_KEY)):
                raise RequestError(
                    f"trainer.{IDLE_KEY}", f"this value is also given as {IDLE_KEY}; one of them is enough"
                )
            recordings[IDLE_KEY] = trainer.pop(IDLE_KEY)
    document = _document(members, trainer)
    spec = _pipeline(document)
    machine = _machine(document.get("machine_spec"))
    recording_keys = [key for key in (OLD_RECORDING_KEY, RECORDING_KEY) if _has_value(recordings.get(key))]
    if len(recording_keys) > 1:
        raise RequestError(RECORDING_KEY, f"this value is also given as {OLD_RECORDING_KEY}; one of them is enough")
    if not recording_keys:
        raise RequestError(RECORDING_KEY, "missing: the recording to train from")
    idle = recordings.get(IDLE_KEY)
    has_idle = _has_value(idle)
    for key in (*recording_keys, *([IDLE_KEY] if has_idle else [])):
        try:
            check_shape(recordings[key], key)
        except RecordingError as error:
            raise wrong_recording(key, error) from error
    return TrainRequest(spec, recordings[recording_keys[0]], idle if has_idle else None, machine)


def wrong_recording(key: str, error: RecordingError) -> RequestError:
    """Return the error for a training request whose recording under `key` is wrong."""
    return RequestError(key, _message_with_path(error))


def _message_with_path(error: RecordingError | UsageError) -> str:
    return f"{path_text(error.path)}: {error.message}" if error.path else error.message


def _members(body: Any, key: str) -> dict[str, msgspec.Raw]:
    """Return the members of a JSON object, with undecoded values. `key` names the object in errors."""
    try:
        return decode_json(body, dict[str, msgspec.Raw])
    except DocumentError as error:
        raise RequestError(key, f"not a JSON object: {error.message}") from None


def _has_value(raw: msgspec.Raw | None) -> bool:
    """Return whether a member of a JSON object is present and not null."""
    return raw is not None and bytes(memoryview(raw)[:5]).strip() != b"null"


def _document(members: Mapping[str, msgspec.Raw], trainer: Mapping[str, msgspec.Raw] | None) -> dict[str, Any]:
    """Decode the members of a request, and of its object `trainer` if it has one.

    Leave out optional keys that are null.
    """
    items = (*members.items(), *(trainer or {}).items())
    size = sum(len(key) + memoryview(raw).nbytes for key, raw in items)
    if size > MAX_DOCUMENT_BYTES:
        raise RequestError("body", f"more than {MAX_DOCUMENT_BYTES} bytes besides the recordings")
    document = {key: _decoded(raw, key) for key, raw in members.items()}
    if isinstance(document.get("use_vm_metrics"), str):
        document["use_vm_metrics"] = flag(document["use_vm_metrics"], "use_vm_metrics")
    for key in ("machine_spec", "use_vm_metrics"):
        _drop_null(document, key)
    if trainer is not None:
        section = {key: _decoded(raw, f"trainer.{key}") for key, raw in trainer.items()}
        for key in ("isolator", "isolator_args"):
            _drop_null(section, key)
        document["trainer"] = section
    return document


def _drop_null(document: dict[str, Any], key: str) -> None:
    if key in document and document[key] is None:
        del document[key]


def _decoded(raw: msgspec.Raw, key: str) -> Any:
    try:
        return decode_value(bytes(raw))
    except DocumentError as error:
        raise RequestError(printable(key), error.message) from None


def _pipeline(document: Mapping[str, Any]) -> PipelineSpec:
    """Return the pipeline of a decoded request in either format."""
    if "pipeline" not in document:
        return _simple_pipeline(_structured(document, SimpleRequest))
    for key in ("name", "energy_source", "trainer", "use_vm_metrics"):
        if key in document:
            raise RequestError(key, "this is a key of the pipeline; write it inside the object pipeline")
    request = _structured(document, PipelineRequest)
    try:
        return resolved(request.pipeline, "pipeline")
    except PipelineError as error:
        raise RequestError(path_text(("pipeline", *error.path)), error.message) from error


def _structured(document: Mapping[str, Any], kind: type[T]) -> T:
    try:
        return structure(document, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        path, message = structuring_problem(error)
        raise RequestError(path_text(path) or "body", message) from error


def _simple_pipeline(request: SimpleRequest) -> PipelineSpec:
    """Return the pipeline that a request in the format of earlier clients describes."""
    section = request.trainer
    isolator = section.isolator
    isolator_args = isolator_arguments(isolator.name, section.isolator_args)
    if duplicates := sorted(isolator.args.keys() & isolator_args.keys()):
        raise RequestError(
            f"trainer.isolator_args.{duplicates[0]}", "this value is also given in trainer.isolator.args"
        )
    try:
        return pipeline_from(
            {
                "name": request.name,
                "energy_sources": [request.energy_source],
                "abs_trainers": [attrs.asdict(plugin) for plugin in section.abs_trainers],
                "dyn_trainers": [attrs.asdict(plugin) for plugin in section.dyn_trainers],
                "isolator": {"name": isolator.name, "args": {**isolator.args, **isolator_args}},
                "use_vm_metrics": request.use_vm_metrics,
            },
            "request",
        )
    except PipelineError as error:
        raise RequestError(path_text(_request_path(error.path, section)), error.message) from error


def _request_path(path: tuple[str | int, ...], section: TrainerSection) -> tuple[str | int, ...]:
    """Convert the path of a wrong key in a pipeline to the path of the corresponding key in the client's request.

    The pipeline was made from this request, a `SimpleRequest`. `section` is the request's object `trainer`.
    """
    if not path:  # such an error means that the pipeline has no trainers
        return ("trainer",)
    match path:
        case ("isolator", "args", argument, *_) if argument in section.isolator_args:
            return ("trainer", "isolator_args", *path[2:])
        case ("isolator", "args", str(argument), *rest) if OLD_NAMES.get(argument) in section.isolator_args:
            return ("trainer", "isolator_args", OLD_NAMES[argument], *rest)
    if path[0] == "energy_sources":
        return ("energy_source",)
    return ("trainer", *path) if path[0] in _TRAINER_KEYS else path


def _machine(document: Any) -> Machine | None:
    if document is None:
        return None
    if isinstance(document, Mapping):
        document = with_numbers(document, "machine_spec")
    try:
        return Machine(machine_spec_from(document, "machine_spec"))
    except UsageError as error:
        raise RequestError("machine_spec", _message_with_path(error)) from error
