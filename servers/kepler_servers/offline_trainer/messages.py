"""The messages between the HTTP process and a training process: JSON, one message per line."""

from __future__ import annotations

from typing import Any

import msgspec

NAME_TAKEN_STATUS = 409
"""HTTP status for this error: the store has a folder with the pipeline's name, which `kepler-model` has not
published."""

# --- commands from the HTTP process to the training process ---


class Check(msgspec.Struct, tag=True):
    """Command to check the training request in a file, without training."""

    body: str
    """Path of the file with the training request."""
    store: str
    """Folder or URL of the model store."""


class Train(msgspec.Struct, tag=True):
    """Command to read a training request from a file, to train its pipeline, and then to exit."""

    job: str
    """The job's id."""
    body: str
    """Path of the file with the training request."""
    archive: str
    """Path at which to write the zip of the trained pipeline."""
    store: str
    """Folder or URL of the model store."""
    backend: str
    scheduler: str | None
    """Address of the Dask scheduler; None if no address is configured."""
    fits: int
    """Number of model fits that run at the same time."""
    may_be_published: bool
    """Whether an earlier attempt of the job may have published a version already."""


class MayPublish(msgspec.Struct, tag=True):
    """Command to publish the pipeline. The HTTP process sends it after `ReadyToPublish` if the job was not
    cancelled."""


Command = Check | Train | MayPublish


# --- messages from the training process to the HTTP process ---


class Accepted(msgspec.Struct, tag=True):
    """Answer to `Check`: the training request is valid."""

    pipeline: str
    """Name of the pipeline that the request trains."""


class Rejected(msgspec.Struct, tag=True):
    """Answer to `Check` or `Train`: the training request is invalid, or its training failed."""

    status: int
    """HTTP status of the answer to the client."""
    content: dict[str, Any]
    """JSON object in the answer to the client."""


class StageStarted(msgspec.Struct, tag=True):
    """Message: the training has begun a stage (reading, preparing, fitting, publishing or packing)."""

    name: str


class FitsPlanned(msgspec.Struct, tag=True):
    """Message: the training has determined the number of models that it will fit."""

    models: int


class ModelTrained(msgspec.Struct, tag=True):
    """Message: a model was trained, or its training failed."""

    model: dict[str, Any]
    """The model, in the format of `kepler-model train --json`. A failed model has the key `reason`."""


class LogLine(msgspec.Struct, tag=True):
    """Message: a line that the training logged."""

    level: str
    text: str


class ReadyToPublish(msgspec.Struct, tag=True):
    """Message: all models are trained, and the training process waits for `MayPublish` before it publishes."""


class Done(msgspec.Struct, tag=True):
    """Message: the pipeline is published, and its zip is written."""

    report: dict[str, Any]
    """Report of the training, in the format of `kepler-model train --json`."""


Message = Accepted | Rejected | StageStarted | FitsPlanned | ModelTrained | LogLine | ReadyToPublish | Done
