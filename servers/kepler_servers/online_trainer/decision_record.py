"""Read the decisions that earlier retrainings of a pipeline recorded in the model store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from kepler_core.documents import Number, Text
from kepler_core.messages import single_line

log = logging.getLogger(__name__)

_ERROR_CHARACTERS = 200


class DecisionRecord(msgspec.Struct):
    """The members of a recorded decision that the online trainer reads after a restart, or returns in `/healthz`."""

    node_type: int | None = None
    time: Text | None = None
    trigger: Text | None = None
    decision: Text | None = None
    version: int | None = None
    reason: str | None = None
    data_until: Number = 0.0
    """Time of the newest sample that the retraining used, Unix seconds."""


def last_decision(
    decisions: Iterable[Mapping[str, Any]], node_type: int
) -> tuple[dict[str, Any], DecisionRecord] | None:
    """Return the latest recorded decision about a node type; None if there is no such decision.

    The result is the recorded JSON object, and a `DecisionRecord` with its typed members. A malformed record is logged
    and ignored, because several programs may write to the model store.
    """
    last = None
    for decision in decisions:
        try:
            record = msgspec.convert(decision, DecisionRecord)
        except msgspec.ValidationError as error:
            log.warning(
                "a recorded decision is malformed and is ignored: %s", single_line(str(error), _ERROR_CHARACTERS)
            )
            continue
        if record.node_type == node_type:
            last = dict(decision), record
    return last
