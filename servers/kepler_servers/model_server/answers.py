"""The types of the model server's JSON answers, and the functions that make the answers to model requests."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from kepler_core.models.kepler_weights import LINEAR_TRAINER, AllWeights
from kepler_core.selection import Selection
from kepler_core.store.manifest import sha256
from kepler_core.store.models import StoredModel
from kepler_servers.http.answer import Answer, attachment, header_text
from kepler_servers.http.app import Error
from kepler_servers.model_request import integers

SELECTION_HEADER = "X-Kepler-Selection"
MODEL_HEADER = "X-Kepler-Model"
ERROR_KEYS = ("mae", "mape")
"""Keys of the model errors that an answer with a model's weights contains, if they are known."""

_JSON = {"Content-Type": "application/json"}
_MAX_HEADER = 8000


class ModelServerError(Error):
    """JSON body of an error answer. If no model fits the request, `selection` states why models were dropped."""

    selection: dict[str, Any] | UnsetType = UNSET


# --- answers to POST /model ---


class DroppedModels(msgspec.Struct):
    """The number of models that did not meet one criterion of the request, and the reason."""

    by: str
    count: int
    why: str


class Candidates(msgspec.Struct):
    """How many models were considered, and how many of them each criterion of the request ruled out."""

    considered: int
    dropped: list[DroppedModels]


class SelectedNodeType(msgspec.Struct):
    """The node type of the selected model, and how well it matches the machine."""

    match: Literal["given", "exact", "nearest", "unknown", "any"]
    number: int
    machine_spec: dict[str, Any]
    similarity: float | UnsetType = UNSET
    looseness: float | UnsetType = UNSET
    uncertainty: float | UnsetType = UNSET
    attributes: dict[str, float | None] | UnsetType = UNSET


class HonestyReasons(msgspec.Struct):
    """The errors and intervals of the selected model, as its metadata state them."""

    mae: dict[str, float | None]
    """Mean absolute error in watts for each split (kind of held-out data); null if it was never measured."""
    hardest: str
    level: float
    """Probability with which an interval is meant to contain the true power."""
    half_width: dict[str, float]
    """Typical half-width of the interval in watts, by component, for a machine of the model's node type. For a client's
    machine of another node type, the half-width is larger, because it includes the differences between machines."""
    flags: dict[str, str]
    """Reasons to doubt all estimates of the model. Each reason has a key and a sentence."""
    twin: str | None
    """The twin: a second model with fewer features that checks the selected model; null if there is none."""


class SelectionReasons(msgspec.Struct):
    """The selected model, and the reasons for its selection."""

    pipeline: str
    version: int | None
    model: str
    trainer: str
    features: list[str]
    error: dict[str, float | str | None]
    node_type: SelectedNodeType
    candidates: Candidates
    honesty: HonestyReasons | UnsetType = UNSET
    stands_in_for: str | UnsetType = UNSET
    """Pipeline and path of the model that the selected model replaces, because that model contains pickles."""
    runner_up: dict[str, float | str | None] | UnsetType = UNSET


class ComponentWeights(msgspec.Struct):
    """The weights of a model for one component."""

    All_Weights: AllWeights


class Weights(msgspec.Struct):
    """A model's weights for each component, in the form that Kepler evaluates.

    If the request has the query parameter explain=1, the answer has only the key `selection`.
    """

    selection: SelectionReasons
    model_name: str | UnsetType = UNSET
    machine_spec: dict[str, int | str] | UnsetType = UNSET
    mae: float | UnsetType = UNSET
    """Validated mean absolute error of the model in watts. Absent if it is unknown."""
    mape: float | UnsetType = UNSET
    """Validated mean absolute percentage error of the model. Absent if it is unknown."""
    platform: ComponentWeights | UnsetType = UNSET
    package: ComponentWeights | UnsetType = UNSET
    core: ComponentWeights | UnsetType = UNSET
    uncore: ComponentWeights | UnsetType = UNSET
    dram: ComponentWeights | UnsetType = UNSET


def weights_members(model: StoredModel) -> bytes:
    """Return the JSON object with a model's weights, in Kepler's form, but without the braces around it."""
    assert model.weights is not None
    return _members(model, model.weights.model_name(model.node_type), model.weights.encoded)


def _members(model: StoredModel, name: str, encoded_weights: bytes) -> bytes:
    head: dict[str, Any] = {"model_name": name, "machine_spec": integers(model.machine_spec)}
    # The answer also has the model's errors, because clients of kepler-model-server 0.7 read them there.
    head |= {name: error for name in ERROR_KEYS if (error := model.scores.get(name)) is not None}
    return b"%s,%s" % (msgspec.json.encode(head)[1:-1], encoded_weights)


def portable_answer(selection: Selection) -> Answer:
    """Return the answer to an estimator of Kepler Core: the model's zip archive, or linear weights in place of pickles.

    The answer may contain weights that are unsafe for Kepler itself, because the estimator of Kepler Core evaluates
    them safely. Raises `StoreError` if the archive is damaged.
    """
    linear = selection.model.linear_weights
    if linear is None:
        return archive_answer(selection)
    name = f"{LINEAR_TRAINER}_{selection.model.node_type}"
    return _with_reasons(selection, _members(selection.model, name, linear))


def weights_answer(selection: Selection) -> Answer:
    """Return the answer with the selected model's weights. Its key `selection` has the reasons for the selection."""
    return _with_reasons(selection, weights_members(selection.model))


def _with_reasons(selection: Selection, members: bytes) -> Answer:
    reasons = msgspec.json.encode({"selection": selection.explain()})
    # The weights are the larger part of the answer, and are already encoded as JSON. So only bytes are joined here.
    body = b"{%s,%s" % (members, reasons[1:])
    return Answer(200, {**_JSON, **model_header(selection.model)}, body)


def archive_answer(selection: Selection) -> Answer:
    """Return the answer with the selected model's zip archive. A header contains the reasons for the selection.

    Raises `StoreError` if the archive is damaged.
    """
    model = selection.model
    content = model.archive()
    record = model.archive_record
    headers = {
        "Content-Type": "application/zip",
        "Content-Disposition": attachment(f"{model.name}.zip"),
        "ETag": f'"{record.sha256 if record is not None else sha256(content)}"',
        SELECTION_HEADER: _header(selection.explain()),
    }
    return Answer(200, headers | model_header(model), content)


def model_header(model: StoredModel) -> dict[str, str]:
    """Return the response header that contains the pipeline and the path of a model."""
    return {MODEL_HEADER: header_text(f"{model.pipeline}/{model.path}")}


def _header(explanation: dict[str, Any]) -> str:
    # A header may contain only ASCII characters. Clients limit the length of a header, so details are left out of a
    # long text.
    text = msgspec.json.encode(explanation).decode()
    if not text.isascii():
        text = json.dumps(explanation, separators=(",", ":"))
    if len(text) > _MAX_HEADER:
        text = json.dumps({**explanation, "features": None, "candidates": None}, separators=(",", ":"))
    return text


# --- answers to GET requests ---


class ListedModel(msgspec.Struct):
    """A model in the list of served models."""

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
    """One page of the list of models, and the number of models on all pages."""

    total: int
    models: list[ListedModel]


class ListedNodeType(msgspec.Struct):
    """The machine description of a node type, and the names of the machines that belong to the node type."""

    machine_spec: dict[str, int | str]
    members: Any


class PipelineHealth(msgspec.Struct):
    """The served version of a pipeline, and the number of its models."""

    version: int | None
    models: int


class Health(msgspec.Struct):
    """The state of the model server: the store, the served pipelines and the broken pipelines."""

    status: Literal["ok", "degraded"]
    version: str
    store: str
    store_problem: str | None
    models: int
    pipelines: dict[str, PipelineHealth]
    broken: dict[str, str]
    not_ready: str | None
    """The reason why the server cannot answer requests for models yet; null if it can answer them."""
