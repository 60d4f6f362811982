"""What a training process runs: `python -m kepler_servers.offline_trainer.trainer_process MEMORY_LIMIT`.

It checks requests until it is told to train one, and ends after that. Commands come on standard input;
when that ends, nobody is left to train for, and the process and all that it started are killed. What
plugins print goes to standard error.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import logging
import os
import queue
import resource
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from kepler_core.errors import KeplerError, PluginError, RecordingError, RequestError, StoreError, TrainingError
from kepler_core.plugins.hooks import Events, hookimpl
from kepler_servers.offline_trainer.messages import (
    Accepted,
    Check,
    Command,
    Done,
    Expected,
    Logged,
    MayPublish,
    Message,
    Ready,
    Refused,
    Stage,
    Train,
    Trained,
)
from kepler_servers.parent_watch import kill_own_group

if TYPE_CHECKING:
    from kepler_core.recording import Observations, Recording
    from kepler_core.store import Store
    from kepler_servers.offline_trainer.request import TrainRequest

NICENESS = 5
"""Trainings take what others leave: the HTTP process is to answer at once."""

MAX_LINES = 1000
"""Of a training that logs more, only the last so many are heard, when it ends."""

_MAX_TEXT = 1000


class Wire:
    """The HTTP process, from here."""

    def __init__(self, commands: BinaryIO, messages: BinaryIO) -> None:
        self._commands = commands
        self._messages = messages
        self._sending = threading.Lock()
        self._come: queue.SimpleQueue[Command] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="commands", daemon=True).start()

    def next(self) -> Command:
        """The next command."""
        return self._come.get()

    def send(self, message: Message) -> None:
        with self._sending:
            self._messages.write(msgspec.json.encode(message) + b"\n")
            self._messages.flush()

    def _listen(self) -> None:
        decoder = msgspec.json.Decoder(Command)
        with contextlib.suppress(OSError):
            for line in self._commands:
                self._come.put(decoder.decode(line))
        kill_own_group()


class Progress(logging.Handler):
    """Tells the HTTP process what happens: a listener to events, and to the log."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(logging.INFO)
        self._wire = wire
        self._lines = 0
        self._late: collections.deque[Logged] = collections.deque(maxlen=MAX_LINES)
        self.may_publish = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = f"{record.name}: {record.getMessage()}"
            if record.exc_info and record.exc_info[1] is not None:
                text += f": {record.exc_info[1]!r}"
            line = Logged(record.levelname.lower(), text[:_MAX_TEXT])
            self._lines += 1
            if self._lines <= MAX_LINES:
                self._wire.send(line)
            else:
                self._late.append(line)
        except Exception:
            self.handleError(record)

    def say_the_rest(self) -> None:
        """The last lines that it has not heard."""
        if (unheard := self._lines - MAX_LINES - len(self._late)) > 0:
            self._wire.send(Logged("warning", f"{unheard} lines are left out here"))
        while self._late:
            self._wire.send(self._late.popleft())

    @hookimpl
    def kepler_training_started(self, models: int) -> None:
        self._wire.send(Expected(models))
        self._wire.send(Stage("fitting"))

    @hookimpl
    def kepler_model_trained(self, model: Mapping[str, Any]) -> None:
        self._wire.send(Trained(_plain(model)))

    @hookimpl(trylast=True)
    def kepler_publishing(self) -> None:
        # last: from here on it is not known whether it was published, until it was
        # a job that was cancelled is never told to go on: this process is killed
        self._wire.send(Ready())
        assert isinstance(self._wire.next(), MayPublish)
        self.may_publish = True


def main() -> None:
    """Obey the HTTP process."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    limit = int(sys.argv[1])
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wire = Wire(os.fdopen(os.dup(0), "rb"), messages)
    # what children read is not what is said to us
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    progress = Progress(wire)
    import_all()
    while True:
        command = wire.next()
        match command:
            case Check():
                wire.send(_answer(command, limit))
            case Train():
                with contextlib.suppress(OSError):
                    os.nice(NICENESS)
                logging.basicConfig(level=logging.INFO, handlers=[progress], force=True)
                result = _result(command, wire, progress, limit)
                progress.say_the_rest()
                wire.send(result)
                return
            case MayPublish():
                raise AssertionError("nothing was to be published")


def import_all() -> None:
    """What every training needs, while the request is still on its way."""
    import kepler_servers.offline_trainer.once
    import kepler_servers.offline_trainer.request  # noqa: F401


def _answer(command: Check, limit: int) -> Message:
    from kepler_servers.offline_trainer.request import read_request

    try:
        return Accepted(read_request(Path(command.body)).pipeline.name)
    except RequestError as error:
        return Refused(400, {"msg": str(error), "key": error.key})
    except MemoryError:
        return _out_of_memory(limit)


def _result(command: Train, wire: Wire, progress: Progress, limit: int) -> Message:
    """Train; what became of it."""
    from kepler_core.store import open_store

    try:
        try:
            return Done(_train(command, wire, progress, open_store(command.store)))
        except KeplerError as error:
            if _has_cause(error, MemoryError):
                return _out_of_memory(limit)
            raise
    except RequestError as error:  # accepted once, but plugins may have changed since then
        return Refused(400, {"msg": str(error), "key": error.key})
    except _UntrainableError as error:
        return Refused(422, error.content)
    except PluginError as error:
        return Refused(422, {"msg": str(error)})
    except StoreError as error:
        status = 507 if _is_full(error) else 503
        return Refused(status, {"msg": f"{error}; the request is kept as long as other finished ones"})
    except OSError as error:
        if not _is_full(error):
            raise
        return Refused(507, {"msg": f"the disk is full: {error.strerror}"})
    except KeplerError as error:
        return Refused(422, {"msg": str(error)})
    except MemoryError:
        return _out_of_memory(limit)
    except Exception as error:
        logging.exception("the training failed; this is a defect of Kepler Core or of a plugin")
        text = str(error).strip().splitlines() or [""]
        return Refused(500, {"msg": f"{type(error).__name__}: {text[0][:_MAX_TEXT]}"})


class _UntrainableError(Exception):
    """Nothing can be made of the data."""

    def __init__(self, message: str, findings: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.content = {"msg": message, "findings": findings}


def _train(command: Train, wire: Wire, progress: Progress, store: Store) -> dict[str, Any]:
    from kepler_core.pipeline.train import train
    from kepler_servers.offline_trainer.once import JobMark, published_version, recovered_report
    from kepler_servers.offline_trainer.request import read_request

    wire.send(Stage("reading"))
    request = read_request(Path(command.body))
    spec = request.pipeline
    if command.look_first and (version := published_version(store, spec.name, command.job)) is not None:
        _pack(command, wire, store, spec.name, version)
        return dict(recovered_report(store, spec.name, version))
    listeners = Events()
    listeners.listen(progress)
    listeners.listen(JobMark(command.job))
    observations, idle = _observed(request, wire, listeners)
    try:
        report: Mapping[str, Any] = train(
            spec,
            observations,
            store,
            backend=command.backend,  # type: ignore[arg-type]
            scheduler=command.scheduler,
            jobs=command.fits,
            listeners=listeners,
            machine=request.machine,
            idle=idle,
        ).as_dict()
    except TrainingError as error:
        raise _UntrainableError(str(error), _findings(request)) from error
    except Exception as error:
        # what is published is published, whatever a listener thinks of it
        version = None
        if progress.may_publish:
            with contextlib.suppress(StoreError):
                version = published_version(store, spec.name, command.job)
        if version is None:
            raise
        logging.warning("it is published, but: %s", error)
        report = recovered_report(store, spec.name, version)
        report = {**report, "notes": [*report["notes"], f"it is published, but: {error}"]}
    _pack(command, wire, store, spec.name, report["version"])
    return dict(report)


def _observed(request: TrainRequest, wire: Wire, listeners: Events) -> tuple[Observations, Observations | None]:
    """What the recordings say; each recording is in memory only until that is known."""
    from kepler_core.recording import observe

    spec = request.pipeline
    try:
        recording = _read(request.recording, "prom_response", request)
        listeners.send("kepler_recording_loaded", recording=recording)
        wire.send(Stage("preparing"))
        observations = observe([recording], use_vm_metrics=spec.use_vm_metrics, third_party=spec.third_party)
        del recording
        if request.idle is None:
            return observations, None
        return observations, observe([_read(request.idle, "idle_prom_response", request)])
    except RecordingError as error:
        raise _UntrainableError(str(error), _findings(request)) from error


def _read(raw: msgspec.Raw, name: str, request: TrainRequest) -> Recording:
    from kepler_core.recording import read_recording
    from kepler_core.recording.schemas import is_known_metric

    third_party = request.pipeline.third_party
    try:
        return read_recording(
            bytes(raw), name=name, wanted=lambda metric: metric in third_party or is_known_metric(metric)
        )
    except RecordingError as error:
        raise RequestError(name, str(error).removeprefix(f"{name}: ")) from error


def _findings(request: TrainRequest) -> dict[str, Any]:
    """What `validate` says of the recording."""
    from kepler_core.recording import check

    recording = _read(request.recording, "prom_response", request)
    try:
        found = check(recording, use_vm_metrics=request.pipeline.use_vm_metrics)
    except RecordingError as error:
        metrics = {name: metric.n_samples for name, metric in recording.metrics.items()}
        return {
            "trainable": False,
            "reason": str(error),
            "metrics": metrics,
            "other_metrics": list(recording.other_metrics),
        }
    findings: dict[str, Any] = _plain(found.as_dict())
    return findings


def _pack(command: Train, wire: Wire, store: Store, pipeline: str, version: int) -> None:
    """Write the zip of the published version: whole, or not at all."""
    from kepler_core.atomic_files import flush_folder, whole_file
    from kepler_core.store.archive import archive_bytes

    wire.send(Stage("packing"))
    path = Path(command.archive)
    try:
        with whole_file(path) as file:
            file.write(archive_bytes(store.snapshot(pipeline, version)))
        flush_folder(path.parent)
    except Exception as error:
        # the pipeline is in the store all the same
        why = "the disk is full" if _is_full(error) else str(error) or type(error).__name__
        logging.warning("no zip can be written: %s", why)


def _plain(content: Any) -> Any:
    """As JSON has it: no arrays, no tuples, null for numbers that JSON does not have."""
    return msgspec.json.decode(msgspec.json.encode(content, enc_hook=lambda value: value.item()))


def _out_of_memory(limit: int) -> Refused:
    return Refused(422, {"msg": f"the training needs more memory than the {limit // 2**20} MiB that it may have"})


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


if __name__ == "__main__":
    main()
    # what a library still has running is killed with this process' group
    sys.stderr.flush()
    os._exit(0)
