"""What the HTTP process and a training process say to each other: JSON, one message a line."""

from __future__ import annotations

from typing import Any

import msgspec

# --- to the training process ---


class Check(msgspec.Struct, tag=True):
    """Is the request in this file one that could be trained?"""

    body: str


class Train(msgspec.Struct, tag=True):
    """Train the request, then end."""

    job: str
    body: str
    archive: str
    """Where the trained pipeline is to be, as a zip."""
    store: str
    backend: str
    scheduler: str | None
    fits: int
    look_first: bool
    """An earlier attempt may have published already."""


class MayPublish(msgspec.Struct, tag=True):
    """The answer to `Ready`: the job was not cancelled."""


Command = Check | Train | MayPublish


# --- from it ---


class Accepted(msgspec.Struct, tag=True):
    """The request is right."""

    pipeline: str


class Refused(msgspec.Struct, tag=True):
    """The request is wrong, or cannot be trained: an HTTP status and what is wrong."""

    status: int
    content: dict[str, Any]


class Stage(msgspec.Struct, tag=True):
    """A part of the work begins: reading, preparing, fitting, publishing, packing."""

    name: str


class Expected(msgspec.Struct, tag=True):
    """So many models are going to be trained."""

    models: int


class Trained(msgspec.Struct, tag=True):
    """One model, as in `train --json`; it has a `reason` if it failed."""

    model: dict[str, Any]


class Logged(msgspec.Struct, tag=True):
    """A line of the log."""

    level: str
    text: str


class Ready(msgspec.Struct, tag=True):
    """All is trained; may it be published?"""


class Done(msgspec.Struct, tag=True):
    """Published, and packed."""

    report: dict[str, Any]


Message = Accepted | Refused | Stage | Expected | Trained | Logged | Ready | Done
