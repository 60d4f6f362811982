"""The messages between the HTTP process and a training process: JSON, one message per line."""

from __future__ import annotations

from typing import Any

import msgspec

# --- from the HTTP process to the training process ---


class Check(msgspec.Struct, tag=True):
    """Check the request in a file without training it."""

    body: str
    """Path of the file."""


class Train(msgspec.Struct, tag=True):
    """Train the request in a file, then exit."""

    job: str
    """The job's id."""
    body: str
    """Path of the file with the request."""
    archive: str
    """Path at which to write the zip of the trained pipeline."""
    store: str
    """Folder or URL of the model store."""
    backend: str
    scheduler: str | None
    """Address of the Dask scheduler."""
    fits: int
    """Number of fits that run at the same time."""
    may_be_published: bool
    """Whether an earlier attempt may have published already."""


class MayPublish(msgspec.Struct, tag=True):
    """Answer `ReadyToPublish`: the job was not cancelled."""


Command = Check | Train | MayPublish


# --- from the training process to the HTTP process ---


class Accepted(msgspec.Struct, tag=True):
    """The request is valid."""

    pipeline: str
    """Name of the pipeline that the request trains."""


class Rejected(msgspec.Struct, tag=True):
    """The request is invalid, or its training failed."""

    status: int
    """HTTP status for the client."""
    content: dict[str, Any]
    """JSON object for the client."""


class StageStarted(msgspec.Struct, tag=True):
    """The training entered a stage: reading, preparing, fitting, publishing or packing."""

    name: str


class FitsPlanned(msgspec.Struct, tag=True):
    """The training knows how many models it will fit."""

    models: int


class ModelTrained(msgspec.Struct, tag=True):
    """One model was trained, or its training failed."""

    model: dict[str, Any]
    """The model as in `train --json`. A failed one has the key `reason`."""


class LogLine(msgspec.Struct, tag=True):
    """A line that the training logged."""

    level: str
    text: str


class ReadyToPublish(msgspec.Struct, tag=True):
    """All models are trained. The training process waits for `MayPublish`."""


class Done(msgspec.Struct, tag=True):
    """The pipeline is published and packed."""

    report: dict[str, Any]
    """The report as in `train --json`."""


Message = Accepted | Rejected | StageStarted | FitsPlanned | ModelTrained | LogLine | ReadyToPublish | Done
