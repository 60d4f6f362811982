"""The main module of a training process: `python -m kepler_servers.offline_trainer.training_main MEMORY_LIMIT`.

The process checks training requests until it receives the command to train one of them. It ends after this
training. The process reads commands from standard input and writes messages to standard output. When standard
input closes, the server has ended, and the process kills itself and all processes that it started. Text that
plugins print goes to standard error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sys
from pathlib import Path

from kepler_core.errors import KeplerError, NameTakenError, PluginError, RequestError, StoreError
from kepler_core.messages import one_line
from kepler_servers.offline_trainer.channel import MAX_LINE_CHARACTERS, Channel, ProgressReporter
from kepler_servers.offline_trainer.disk_full import is_disk_full
from kepler_servers.offline_trainer.messages import (
    NAME_TAKEN_STATUS,
    Accepted,
    Check,
    Done,
    MayPublish,
    Message,
    Rejected,
    Train,
)

NICENESS = 5
"""Niceness of training processes. Their priority is lower than that of the HTTP process, so that it still answers
quickly."""


def main() -> None:
    """Execute the HTTP process' commands until one training has ended."""
    messages = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    limit = int(sys.argv[1])
    if limit:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = Channel(os.fdopen(os.dup(0), "rb"), messages)
    # Child processes would inherit standard input, and could read the commands from it.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    import_early()
    while True:
        command = channel.receive()
        match command:
            case Check():
                channel.send(_check(command, limit))
            case Train():
                channel.send(_train(command, channel, limit))
                return
            case MayPublish():
                raise AssertionError("MayPublish without ReadyToPublish")


def import_early() -> None:
    """Import the modules that every training needs, while the HTTP process is still receiving the request."""
    import kepler_servers.offline_trainer.publish_marker
    import kepler_servers.offline_trainer.request  # noqa: F401


def _check(command: Check, limit: int) -> Message:
    from kepler_servers.offline_trainer.request import read_request

    try:
        pipeline = read_request(Path(command.body)).pipeline.name
        _check_name(command.store, pipeline)
        return Accepted(pipeline)
    except NameTakenError as error:
        return _name_taken(error)
    except RequestError as error:
        return Rejected(400, {"msg": str(error), "key": error.key})
    except MemoryError:
        return _out_of_memory(limit)
    except Exception as error:
        logging.exception("a request cannot be checked; this is a defect of Kepler Core or of a plugin")
        return Rejected(500, {"msg": f"the request could not be checked: {one_line(error, MAX_LINE_CHARACTERS)}"})


def _train(command: Train, channel: Channel, limit: int) -> Message:
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    progress = ProgressReporter(channel)
    logging.basicConfig(level=logging.INFO, handlers=[progress], force=True)
    result = _outcome(command, channel, progress, limit)
    progress.send_last_lines()
    return result


def _outcome(command: Train, channel: Channel, progress: ProgressReporter, limit: int) -> Message:
    """Run the training. Return `Done` with the report or, after an error, `Rejected` with the answer for the client."""
    try:
        from kepler_core.store import open_store
        from kepler_servers.offline_trainer.training_run import UntrainableError, train_job
    except MemoryError:
        return _out_of_memory(limit)
    try:
        try:
            return Done(train_job(command, channel, progress, open_store(command.store)))
        except KeplerError as error:
            if _has_cause(error, MemoryError):
                return _out_of_memory(limit)
            raise
    except RequestError as error:  # the earlier check does not find wrong samples or changed plugins
        return Rejected(400, {"msg": str(error), "key": error.key})
    except UntrainableError as error:
        return Rejected(422, {"msg": str(error), "findings": error.findings})
    except PluginError as error:
        return Rejected(422, {"msg": str(error)})
    except NameTakenError as error:
        return _name_taken(error)
    except StoreError as error:
        status = 507 if is_disk_full(error) else 503
        return Rejected(status, {"msg": f"{error}; the request stays stored like those of other ended jobs"})
    except OSError as error:
        if not is_disk_full(error):
            raise
        return Rejected(507, {"msg": f"the disk is full: {error.strerror}"})
    except KeplerError as error:
        return Rejected(422, {"msg": str(error)})
    except MemoryError:
        return _out_of_memory(limit)
    except Exception as error:
        logging.exception("the training failed; this is a defect of Kepler Core or of a plugin")
        return Rejected(500, {"msg": one_line(error, MAX_LINE_CHARACTERS)})


def _check_name(location: str, pipeline: str) -> None:
    """Raise `NameTakenError` if the store at a location cannot publish under the pipeline's name.

    A store at a URL is not checked here, because it may answer slowly or not at all. The training checks it.
    """
    from kepler_core.store.local import LocalStore
    from kepler_core.urls import is_url

    if not is_url(location):
        LocalStore(location).check_name(pipeline)


def _name_taken(error: NameTakenError) -> Rejected:
    message = f"{error.folder} was not published by kepler-model; send another name, or rename or remove this folder"
    return Rejected(NAME_TAKEN_STATUS, {"msg": message})


def _out_of_memory(limit: int) -> Rejected:
    return Rejected(422, {"msg": f"the training needs more memory than the {limit // 2**20} MiB that it may have"})


def _has_cause(error: BaseException | None, kind: type[BaseException]) -> bool:
    while error is not None:
        if isinstance(error, kind):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    main()
    # Skip the interpreter's shutdown, which would wait for threads and processes of libraries. After the exit, the HTTP
    # process kills the remaining processes in the process group of this process.
    sys.stderr.flush()
    os._exit(0)
