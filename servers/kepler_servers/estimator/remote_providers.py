"""Model providers that need a network: a model server, and models at configured URLs."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from typing import Any

import attrs
import msgspec

from kepler_core.deadlines import Deadline, DeadlineError, TooLargeError
from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import KeplerError, ModelError, NoModelError
from kepler_core.honesty.document import Twin, read_honesty
from kepler_core.messages import printable
from kepler_core.models.kepler_weights import LINEAR_TRAINER
from kepler_core.models.linear_weights import load_linear_weights, read_linear_weights
from kepler_core.models.power_model import MAX_DOCUMENT_BYTES, METADATA_FILE, MODEL_FILE, PowerModel
from kepler_core.plugins import registry
from kepler_core.selection import ModelRequest
from kepler_core.selection.sources import matching_sources
from kepler_core.selection.stand_in import WHAT_TO_DO
from kepler_core.store.http_exchange import Answer, exchange
from kepler_core.store.manifest import sha256
from kepler_core.store.model_archive import ModelArchive
from kepler_core.urls import beside, secrets_of, shown_url, without_secrets
from kepler_core.vocabulary import PLATFORM_COMPONENTS, OutputType
from kepler_servers.estimator.model_providers import (
    ModelOffer,
    UnreachableError,
    checked_twin_path,
    offer_of,
    stand_in_remark,
)
from kepler_servers.estimator.url_models import MAX_ARCHIVE_BYTES, InitUrl, UrlModels, read_url_models

SERVER_TIMEOUT_SECONDS = 10.0
"""Time limit for receiving the complete answer of a model server."""
MAX_NAME_CHARACTERS = 300

_ZIP_MAGIC = b"PK"
"""First bytes of a zip file."""

_NODE_LEVELS, _PROCESS_LEVELS = ("NODE",), ("CONTAINER", "PROCESS")


class ModelServerProvider:
    """Provider that gets models from a model server, either of Kepler Core or of kepler-model-server.

    The model server of Kepler Core sends either a model that Kepler Core can load, or linear weights. The model server
    of kepler-model-server sends pickles, which Kepler Core never loads. If the answer is a pickle, or if the server
    does not understand the request, the provider sends a second request, for linear weights.
    """

    def __init__(self, url: str) -> None:
        self.name = f"model server {shown_url(url)}"
        self._url = url
        self._secrets = secrets_of(url)

    def offer(self, request: ModelRequest) -> ModelOffer:
        answer = self._post(_body_of(request))
        if _is_from_other_server(answer):
            return self._offer_of_other_server(request)
        self._check_status(answer)
        if not answer.body.startswith(_ZIP_MAGIC):
            return self._offer_of_weights(answer, request, wanted="")
        try:
            files = ModelArchive(answer.body, self.name)
            metadata = decode_object(files[METADATA_FILE])
        except KeplerError as error:
            raise UnreachableError(f"the answer is not a model: {error}", document=self.name) from None
        if MODEL_FILE not in files:
            return self._offer_in_place_of(str(metadata.get("model_name") or "a model"), request)
        selection = _selection_in_header(answer)
        spec = metadata.get("machine_spec")
        name = _model_name(answer, selection)
        return ModelOffer(
            self.name,
            name,
            sha256(answer.body),
            selection,
            _machine_spec_in(selection) or (spec if isinstance(spec, dict) else {}),
            files,
            find_twin=self._twin_finder(name, metadata),
        )

    def _twin_finder(self, name: str, metadata: Mapping[str, Any]) -> Callable[[Twin], ModelOffer]:
        """Download a model's twin, and return a function that returns the offer of the twin.

        `name` consists of the model's pipeline and path. The twin is downloaded now, and not when the returned function
        is called: only now may the thread wait for a download. If the download fails, the returned function raises the
        error, because the model can be used without its twin.
        """
        result: ModelOffer | KeplerError
        try:
            honesty = read_honesty(metadata)
            if honesty is None or honesty.twin is None:
                result = ModelError("the model has no twin", document=self.name)
            else:
                result = self._offer_of_twin(name, honesty.twin)
        except KeplerError as error:
            result = error

        def find_twin(_: Twin) -> ModelOffer:
            if isinstance(result, KeplerError):
                raise result
            return result

        return find_twin

    def _offer_of_twin(self, name: str, twin: Twin) -> ModelOffer:
        name = checked_twin_path(name, twin)
        url = beside(self._url, f"models/{name}.zip")
        answer = self._exchange(urllib.request.Request(url))  # noqa: S310 - the command checks the scheme
        self._check_status(answer)
        try:
            return ModelOffer(self.name, name, sha256(answer.body), {}, {}, ModelArchive(answer.body, self.name))
        except KeplerError as error:
            raise UnreachableError(f"the answer is not a model: {error}", document=self.name) from None

    def changed(self) -> bool:
        return False

    def _offer_in_place_of(self, wanted: str, request: ModelRequest) -> ModelOffer:
        """Request linear weights from a server that has sent the model `wanted`, which contains only pickles."""
        answer = self._post({**_body_of(request), "portable": False, "weight": True, "trainer_name": LINEAR_TRAINER})
        try:
            self._check_status(answer)
        except KeplerError as error:
            wanted = printable(wanted, MAX_NAME_CHARACTERS)
            raise UnreachableError(
                f"{error.message}; without linear weights, {wanted} cannot be used, because it contains only pickles; "
                f"{WHAT_TO_DO}",
                document=self.name,
            ) from None
        return self._offer_of_weights(answer, request, wanted)

    def _offer_of_other_server(self, request: ModelRequest) -> ModelOffer:
        """Request linear weights from a model server of kepler-model-server.

        These servers fail with status 500 if a request has a key that they do not know. Releases before 0.7 do not
        know the key `spec`.
        """
        body = {
            "metrics": list(request.metrics or ()),
            "output_type": request.output_type,
            "source": request.source,
            "filter": request.filter.text,
            "trainer_name": LINEAR_TRAINER,
            "weight": True,
        }
        answer = self._post({**body, "spec": dict(request.machine_spec)})
        if answer.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            answer = self._post(body)
        if answer.status == HTTPStatus.BAD_REQUEST:
            # A proxy may have sent status 400. So the error is not a `NoModelError`, and the estimator keeps the model
            # that it uses.
            raise UnreachableError(f"HTTP 400: no linear weights that fit; {WHAT_TO_DO}", document=self.name)
        self._check_status(answer)
        # If the request names the linear trainer, the client wants exactly these weights. In this case, `wanted` is
        # empty, because the weights do not replace another model.
        wanted = "" if request.trainer == LINEAR_TRAINER else request.trainer or "the models of kepler-model-server"
        return self._offer_of_weights(answer, request, wanted)

    def _offer_of_weights(self, answer: Answer, request: ModelRequest, wanted: str) -> ModelOffer:
        """Return the offer of linear weights that a server has sent in place of the model with the name `wanted`.

        If `wanted` is empty, the name is taken from the answer's key `selection`.
        """
        if len(answer.body) > MAX_DOCUMENT_BYTES:
            raise UnreachableError(f"weights of more than {MAX_DOCUMENT_BYTES} bytes", document=self.name)
        try:
            document = decode_object(answer.body)
            linear = read_linear_weights(answer.body)
        except (DocumentError, ModelError) as error:
            raise UnreachableError(f"the answer is not a model: {error}", document=self.name) from None
        if missing := [name for name in linear.features if name not in (request.metrics or ())]:
            raise UnreachableError(f"the answer is a model that needs {printable(missing[0], 100)}", document=self.name)
        selection = document.get("selection")
        selection = selection if isinstance(selection, dict) else {}
        path = str(selection.get("model") or document.get("model_name") or LINEAR_TRAINER)
        own_name = path.rpartition("/")[2]
        if wanted not in ("", own_name):
            selection = {**selection, "stands_in_for": printable(wanted, MAX_NAME_CHARACTERS)}
        remark = stand_in_remark(
            linear.encoded,
            f"{selection['pipeline']}/{path}" if "pipeline" in selection else path,
            str(selection.get("stands_in_for") or ""),
        )
        spec = document.get("machine_spec")
        spec = _machine_spec_in(selection) or (spec if isinstance(spec, dict) else {})
        metadata = {
            "model_name": own_name,
            "features": list(linear.features),
            "output_type": request.output_type,
            "source": request.source,
            "machine_spec": spec,
            "mae": _mae_in(document, selection),
        }
        name = _model_name(answer, {"model": own_name, **selection})
        source = _Weights(linear.encoded, metadata, self.name)
        return ModelOffer(self.name, name, sha256(linear.encoded), selection, spec, source, remark)

    def _post(self, body: Mapping[str, Any]) -> Answer:
        """Send a request to the model server, and return its answer, even if the status is an error."""
        http_request = urllib.request.Request(  # noqa: S310 - the command checks the scheme
            self._url, msgspec.json.encode(body), {"Content-Type": "application/json"}, method="POST"
        )
        return self._exchange(http_request)

    def _exchange(self, http_request: urllib.request.Request) -> Answer:
        """Return the model server's answer to a request. Raises `UnreachableError` if it does not answer in time."""
        deadline = Deadline(SERVER_TIMEOUT_SECONDS)
        try:
            return exchange(http_request, deadline, max_bytes=MAX_ARCHIVE_BYTES, socket_timeout=SERVER_TIMEOUT_SECONDS)
        except DeadlineError as error:
            raise UnreachableError(f"the answer is {error.message}", document=self.name) from None
        except (OSError, http.client.HTTPException, ValueError, TooLargeError) as error:
            reason = getattr(error, "reason", None) or error
            text = without_secrets(str(reason), self._secrets)
            raise UnreachableError(printable(text, 200), document=self.name) from None

    def _check_status(self, answer: Answer) -> None:
        """Raise `NoModelError` if the server has no model, and `UnreachableError` if it reports another error."""
        if answer.status < HTTPStatus.MULTIPLE_CHOICES:
            return
        message = without_secrets(_error_message(answer.body), self._secrets)
        if answer.status == HTTPStatus.NOT_FOUND:
            raise NoModelError(message, {}, document=self.name)
        raise UnreachableError(f"HTTP {answer.status}: {message}", document=self.name)


@attrs.frozen(eq=False)
class _Weights:
    """Linear weights that a model server has sent."""

    encoded: bytes
    metadata: Mapping[str, Any]
    where: str

    def load(self, *, resident: bool) -> PowerModel:
        return load_linear_weights(self.encoded, self.metadata, self.where)


def _body_of(request: ModelRequest) -> dict[str, Any]:
    """Return the body of a request to the model server of Kepler Core."""
    return {
        "metrics": list(request.metrics or ()),
        "output_type": request.output_type,
        "source": request.source,
        "trainer_name": request.trainer or "",
        "filter": request.filter.text,
        "machine_spec": dict(request.machine_spec),
        "weight": False,
        "portable": True,
    }


def _is_from_other_server(answer: Answer) -> bool:
    """Return whether an answer is an error of the model server of kepler-model-server.

    That server sends status 500 if it does not know a key of the request, and status 400 if it has no model, both
    without JSON. The errors of Kepler Core are JSON objects with the key `msg`.
    """
    if answer.status not in (HTTPStatus.BAD_REQUEST, HTTPStatus.INTERNAL_SERVER_ERROR):
        return False
    try:
        return "msg" not in decode_object(answer.body)
    except DocumentError:
        return True


def _selection_in_header(answer: Answer) -> dict[str, Any]:
    try:
        return decode_object((answer.headers.get("X-Kepler-Selection") or "{}").encode())
    except DocumentError:
        return {}


def _model_name(answer: Answer, selection: Mapping[str, Any]) -> str:
    """Return the name of the model in an answer: pipeline and path, if the server sends them."""
    name = answer.headers.get("X-Kepler-Model") or selection.get("model") or "a model"
    return printable(str(name), MAX_NAME_CHARACTERS)


def _machine_spec_in(selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine description of the selected model; empty if the selection has none."""
    node_type = selection.get("node_type")
    spec = node_type.get("machine_spec") if isinstance(node_type, dict) else None
    return spec if isinstance(spec, dict) else {}


def _mae_in(document: Mapping[str, Any], selection: Mapping[str, Any]) -> float | None:
    """Return the mean absolute error of linear weights that a server has sent; None if it is not known."""
    error = selection.get("error")
    for errors in (document, error if isinstance(error, dict) else {}):
        if isinstance(mae := errors.get("mae"), int | float) and not isinstance(mae, bool):
            return mae
    return None


class UrlProvider:
    """Provider of models from configured URLs.

    Each configured URL is for one level (node, container or process) and one kind of power (of the whole
    platform, or of components). At the URL is the archive of one model, or the weights of one model as JSON.
    """

    def __init__(self, urls: Mapping[str, str]) -> None:
        """`urls` maps configuration keys, e.g. NODE_TOTAL_INIT_URL, to URLs or local paths of archives or weights."""
        self.name = "configured URLs"
        self._urls = dict(urls)
        self._models: dict[tuple[str, str], UrlModels] = {}
        """The models that were read from the URLs, by configuration key and energy source.

        The metadata in old archives do not name an energy source. The provider uses such a model for any requested
        energy source.
        """

    def offer(self, request: ModelRequest) -> ModelOffer:
        sources = matching_sources(request.source, ())
        total = _measure_platform(sources)
        keys = init_url_keys(request.output_type, total=total)
        key = next((key for key in keys if key in self._urls), None)
        if key is None:
            unset = f"{keys[0]} is not set" if len(keys) == 1 else f"none of {', '.join(keys)} is set"
            raise NoModelError(unset, {})
        init = InitUrl(key, self._urls[key], request.output_type, total)
        place = init.place()
        source = place[0] if place is not None and place[0] in sources else min(sources)
        if (key, source) not in self._models:
            try:
                self._models[key, source] = read_url_models(init, source)
            except DocumentError as error:
                raise UnreachableError(f"{init.where}: {error}", document=key) from error
            except KeplerError as error:
                raise UnreachableError(str(error), document=key) from error
        try:
            selection = self._models[key, source].select(request)
        except NoModelError as error:
            raise NoModelError(error.message, error.explanation, document=key) from None
        return offer_of(selection, f"URL {init.where}")

    def changed(self) -> bool:
        return False


def init_url_keys(output_type: OutputType, *, total: bool) -> list[str]:
    """Return the configuration keys of the URLs for models of an output type, the preferred key first.

    `total` is true for energy sources that measure the whole platform, and false for energy sources that
    measure components.
    """
    levels = _NODE_LEVELS if output_type == "AbsPower" else _PROCESS_LEVELS
    return [f"{level}_{'TOTAL' if total else 'COMPONENTS'}_INIT_URL" for level in levels]


def _measure_platform(sources: Collection[str]) -> bool:
    """Return whether the energy sources of a request measure the whole platform.

    The energy sources that match a request either all measure the platform, or all measure components. So the function
    checks only one of them.
    """
    for name in sources:
        return registry.energy_sources.preferred(name).components == PLATFORM_COMPONENTS
    return False


def _error_message(body: bytes) -> str:
    """Return the error message in a model server's answer, which is the value of the key `msg`."""
    try:
        message = decode_object(body).get("msg", "")
    except DocumentError:
        message = ""
    return printable(str(message), 300).strip() or "no reason given"
