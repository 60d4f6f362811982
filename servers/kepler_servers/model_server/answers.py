"""The types of the answers, and the answers to a request for a model: weights, an archive, or only the reasons."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from kepler_core.models.kepler_weights import AllWeights
from kepler_core.selection import Selection
from kepler_core.store.manifest import sha256
from kepler_core.store.models import StoredModel
from kepler_servers.http.answer import Answer
from kepler_servers.http.app import Error
from kepler_servers.model_request import integers

SELECTION_HEADER = "X-Kepler-Selection"
MODEL_HEADER = "X-Kepler-Model"

_JSON = {"Content-Type": "application/json"}
_MAX_HEADER = 8000


class ModelServerError(Error):
    """What is wrong; if no model fits, also why each model was dropped."""

    selection: dict[str, Any] | UnsetType = UNSET


# --- POST /model ---


class DroppedModels(msgspec.Struct):
    """Models that one criterion has dropped."""

    by: str
    count: int
    why: str


class Candidates(msgspec.Struct):
    """How many models were considered, and which criteria dropped how many of them."""

    considered: int
    dropped: list[DroppedModels]


class SelectedNodeType(msgspec.Struct):
    """The node type of the model, and how it was found."""

    match: Literal["given", "exact", "nearest", "unknown", "any"]
    number: int
    machine_spec: dict[str, Any]
    similarity: float | UnsetType = UNSET
    looseness: float | UnsetType = UNSET
    uncertainty: float | UnsetType = UNSET
    attributes: dict[str, float | None] | UnsetType = UNSET


class SelectionReasons(msgspec.Struct):
    """Why the model was selected."""

    pipeline: str
    version: int | None
    model: str
    trainer: str
    features: list[str]
    error: dict[str, float | str | None]
    node_type: SelectedNodeType
    candidates: Candidates
    runner_up: dict[str, float | str | None] | UnsetType = UNSET


class ComponentWeights(msgspec.Struct):
    """The weights of one component."""

    All_Weights: AllWeights


class Weights(msgspec.Struct):
    """Weights per component as Kepler evaluates them; with explain=1 only the selection."""

    selection: SelectionReasons
    model_name: str | UnsetType = UNSET
    machine_spec: dict[str, int | str] | UnsetType = UNSET
    platform: ComponentWeights | UnsetType = UNSET
    package: ComponentWeights | UnsetType = UNSET
    core: ComponentWeights | UnsetType = UNSET
    uncore: ComponentWeights | UnsetType = UNSET
    dram: ComponentWeights | UnsetType = UNSET


def weights_members(model: StoredModel) -> bytes:
    """Return a model's weights as Kepler reads them, without the braces around them."""
    assert model.weights is not None
    head = {
        "model_name": model.weights.model_name(model.node_type),
        "machine_spec": integers(model.machine_spec),
    }
    return b"%s,%s" % (msgspec.json.encode(head)[1:-1], model.weights.encoded)


def weights_answer(selection: Selection) -> Answer:
    """Return the weights, with the reasons as one more key."""
    model = selection.model
    reasons = msgspec.json.encode({"selection": selection.explain()})
    # the weights are kept as encoded JSON: they are the larger part of the answer
    body = b"{%s,%s" % (weights_members(model), reasons[1:])
    return Answer(200, {**_JSON, **model_header(model)}, body)


def archive_answer(selection: Selection) -> Answer:
    """Return the model's zip, with the reasons in a header; raise `StoreError` if the zip is damaged."""
    model = selection.model
    content = model.archive()
    record = model.archive_record
    headers = {
        "Content-Type": "application/zip",
        "Content-Disposition": f'attachment; filename="{model.name}.zip"',
        "ETag": f'"{record.sha256 if record is not None else sha256(content)}"',
        SELECTION_HEADER: _header(selection.explain()),
    }
    return Answer(200, headers | model_header(model), content)


def model_header(model: StoredModel) -> dict[str, str]:
    """Return the header that names pipeline and path of the model."""
    return {MODEL_HEADER: f"{model.pipeline}/{model.path}"}


def _header(explanation: dict[str, Any]) -> str:
    # a header is ASCII, and clients limit its length
    text = msgspec.json.encode(explanation).decode()
    if not text.isascii():
        text = json.dumps(explanation, separators=(",", ":"))
    if len(text) > _MAX_HEADER:
        text = json.dumps({**explanation, "features": None, "candidates": None}, separators=(",", ":"))
    return text


# --- GET ---


class ListedModel(msgspec.Struct):
    """A model of the store."""

    pipeline: str
    version: int | None
    path: str
    model_name: str
    source: str
    output_type: str
    feature_group: str
    trainer: str
    node_type: int
    features: list[str]
    portable: bool
    weights: bool
    no_weights: str | None
    errors: dict[str, Any]

    @classmethod
    def of(cls, model: StoredModel) -> ListedModel:
        return cls(
            pipeline=model.pipeline,
            version=model.snapshot.version,
            path=model.path,
            model_name=model.name,
            source=model.source,
            output_type=model.output_type,
            feature_group=model.feature_group,
            trainer=model.trainer,
            node_type=model.node_type,
            features=list(model.features),
            portable=model.portable,
            weights=model.weights is not None,
            no_weights=None if model.weights is not None else model.no_weights,
            errors={key: value for key, value in model.metadata.items() if key.endswith(("mae", "mape"))},
        )


class ModelPage(msgspec.Struct):
    """A page of models and how many there are on all pages."""

    total: int
    models: list[ListedModel]


class ListedNodeType(msgspec.Struct):
    """The machine that a node type stands for, and the nodes that belong to it."""

    machine_spec: dict[str, int | str]
    members: Any


class PipelineHealth(msgspec.Struct):
    """What is served of a pipeline."""

    version: int | None
    models: int


class Health(msgspec.Struct):
    """What is served and what is broken."""

    status: Literal["ok", "degraded"]
    version: str
    store: str
    store_problem: str | None
    models: int
    pipelines: dict[str, PipelineHealth]
    broken: dict[str, str]
