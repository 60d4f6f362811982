"""What `POST /model` answers with: weights, an archive, or only the reasons."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from kepler_core.selection import Selection
from kepler_core.store.manifest import sha256
from kepler_core.store.models import StoredModel
from kepler_servers.http.app import Answer
from kepler_servers.model_request import integers

SELECTION_HEADER = "X-Kepler-Selection"
MODEL_HEADER = "X-Kepler-Model"

_MAX_HEADER = 8000


def weights_members(model: StoredModel) -> bytes:
    """A model's weights as Kepler takes them, without the braces around them."""
    assert model.weights is not None
    head = {
        "model_name": model.weights.model_name(model.node_type),
        "machine_spec": integers(model.machine_spec),
    }
    return b"%s,%s" % (msgspec.json.encode(head)[1:-1], model.weights.encoded)


def weights_answer(selection: Selection) -> Answer:
    """The weights, with the reasons as one more key."""
    model = selection.model
    reasons = msgspec.json.encode({"selection": selection.explain()})
    body = b"{%s,%s" % (weights_members(model), reasons[1:])
    return Answer(body, "application/json", {MODEL_HEADER: f"{model.pipeline}/{model.path}"})


def archive_answer(selection: Selection) -> Answer:
    """The model's zip, with the reasons in a header; `StoreError` if it turns out to be damaged."""
    model = selection.model
    content = model.archive()
    record = model.archive_record
    headers = {
        "Content-Disposition": f'attachment; filename="{model.name}.zip"',
        "ETag": f'"{record.sha256 if record is not None else sha256(content)}"',
        MODEL_HEADER: f"{model.pipeline}/{model.path}",
        SELECTION_HEADER: _header(selection.explain()),
    }
    return Answer(content, "application/zip", headers)


def reasons_answer(selection: Selection) -> Answer:
    """Only the reasons, whatever was asked for."""
    return Answer(msgspec.json.encode({"selection": selection.explain()}), "application/json")


def _header(explanation: dict[str, Any]) -> str:
    # a header is ASCII, and clients take only so much of them
    text = msgspec.json.encode(explanation).decode()
    if not text.isascii():
        text = json.dumps(explanation, separators=(",", ":"))
    if len(text) > _MAX_HEADER:
        text = json.dumps({**explanation, "features": None, "candidates": None}, separators=(",", ":"))
    return text
