"""Tests of `App`, a WSGI application that consists of routes: its answers, errors, timing and OpenAPI document."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Annotated, Any, Literal
from wsgiref.util import setup_testing_defaults

import attrs
import msgspec
import pytest
from msgspec import Meta

from kepler_core.errors import KeplerError, NoModelError, RequestError, StoreError
from kepler_servers.http.answer import Answer, Deferred, HttpError
from kepler_servers.http.app import DEFERRED, App, Error
from kepler_servers.http.bodies import decode_json
from kepler_servers.http.route import JsonSchema, Returns, Route


class ItemQuery(msgspec.Struct, frozen=True, rename="kebab"):
    """Query parameters of the test endpoint `GET /items/<item>`."""

    max_size: Annotated[int, Meta(ge=1, le=10)] = 3
    state: Literal["new", "old"] | None = None
    verbose: bool = False
    owner: str | None = None


class ItemHeaders(msgspec.Struct, frozen=True):
    """Headers that the test endpoint `GET /items/<item>` reads."""

    key: str | None = msgspec.field(name="Idempotency-Key", default=None)


class Item(msgspec.Struct):
    """An item."""

    name: str
    query: ItemQuery
    key: str | None


class NewItem(msgspec.Struct):
    """JSON body of a request to the test endpoint `POST /items`."""

    name: str
    size: Annotated[int, Meta(ge=0)] = 0


class ItemError(Error):
    """JSON body of the error answers of the test endpoints."""

    item: str | msgspec.UnsetType = msgspec.UNSET


def item(item: str, query: ItemQuery, headers: ItemHeaders) -> Item:
    return Item(item, query, headers.key)


def new_item(body: bytes) -> Answer:
    return Answer(201, {"Content-Type": "text/plain"}, decode_json(body, decoder).name.encode())


decoder = msgspec.json.Decoder(NewItem)


@attrs.define
class Response:
    """The response of the WSGI application, as a WSGI server would send it."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def call(app: App, method: str, path: str, body: bytes = b"", **environ: Any) -> Response:
    path, _, query = path.partition("?")
    request: dict[str, Any] = {
        "REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query, "wsgi.input": io.BytesIO(body),
        "CONTENT_LENGTH": str(len(body)), **environ,
    }  # fmt: skip
    setup_testing_defaults(request)
    started: list[Any] = []
    parts = app.wsgi(request, lambda *arguments: started.extend(arguments[:2]))
    response = Response(int(started[0][:3]), {k.lower(): v for k, v in started[1]}, b"".join(parts))
    if (close := getattr(parts, "close", None)) is not None:
        close()
    return response


Observed = list[tuple[str, int]]


def make_app(observed: Observed, *routes: Route, **options: Any) -> App:
    return App("item server", routes, observe=lambda name, status, _: observed.append((name, status)), **options)


@pytest.fixture
def observed() -> Observed:
    return []


@pytest.fixture
def app(observed: Observed) -> App:
    return make_app(
        observed,
        Route("GET", "/items/<item>", "item", item, summary="Return an item.", query=ItemQuery, headers=ItemHeaders,
              returns=Item, errors=(404,)),
        Route("POST", "/items", "new-item", new_item, summary="Add an item.", body=NewItem,
              returns=[Returns({"text/plain": str}, status=201, headers={"Location": "Where it is."})], errors=(400,)),
        error=ItemError,
    )  # fmt: skip


# --- answers ---


def test_struct_becomes_json(app: App, observed: Observed) -> None:
    response = call(app, "GET", "/items/x?max-size=5&state=old&verbose=1&owner=a%20b", HTTP_IDEMPOTENCY_KEY="k")
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    query = {"max-size": 5, "state": "old", "verbose": True, "owner": "a b"}
    assert response.json() == {"name": "x", "query": query, "key": "k"}
    assert observed == [("item", 200)]


def test_answer_is_sent_unchanged(app: App) -> None:
    response = call(app, "POST", "/items", b'{"name":"x"}')
    assert (response.status, response.headers["content-type"], response.body) == (201, "text/plain", b"x")


def test_file_is_the_body(observed: Observed, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    app = make_app(
        observed, Route("GET", "/", "file", lambda: Answer(200, {"Content-Type": "x/y"}, file), summary="Return it.")
    )
    response = call(app, "GET", "/")
    assert (response.body, response.headers["content-length"]) == (b"content", "7")
    head = call(app, "HEAD", "/")
    assert (head.body, head.headers["content-length"]) == (b"", "7")


def deferring(future: Future[str], calls: list[str]) -> Iterator[Route]:
    def then() -> Answer:
        calls.append("then")
        if future.result() == "fail":
            raise HttpError(409, "it has failed", item="x")
        return Answer(200, {}, future.result().encode())

    yield Route("POST", "/later", "later", lambda: Deferred(future, then), summary="Answer later.")


def test_deferred_answer_without_a_server_that_defers(observed: Observed) -> None:
    future: Future[str] = Future()
    future.set_result("done")
    app = make_app(observed, *deferring(future, []))
    assert call(app, "POST", "/later").body == b"done"
    assert observed == [("later", 200)]


def test_deferred_answer_is_handed_to_a_server_that_defers(observed: Observed) -> None:
    future: Future[str] = Future()
    calls: list[str] = []
    app = make_app(observed, *deferring(future, calls))
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/later", DEFERRED: None}
    setup_testing_defaults(environ)
    app.wsgi(environ, lambda *_: None)
    deferred = environ[DEFERRED]
    assert isinstance(deferred, Deferred)
    assert (calls, observed) == ([], [])
    future.set_result("fail")
    answer = deferred.then()
    assert isinstance(answer, Answer)
    assert (answer.status, answer.body) == (409, b'{"msg":"it has failed","item":"x"}')
    assert observed == [("later", 409)]


# --- errors ---


def failing(error: Exception) -> Route:
    def handler() -> None:
        raise error

    return Route("GET", "/", "fails", handler, summary="Fail.")


@pytest.mark.parametrize(
    ("error", "status", "content"),
    [
        (HttpError(410, "gone", item="x"), 410, {"msg": "gone", "item": "x"}),
        (RequestError("size", "too large"), 400, {"msg": "size: too large", "key": "size"}),
        (StoreError("the store is damaged"), 503, {"msg": "the store is damaged"}),
        (NoModelError("nothing fits", {}), 404, {"msg": "no item: nothing fits"}),
        (ValueError("secret"), 500, {"msg": "a defect of the item server; its log says more"}),
    ],
)
def test_errors_become_json(observed: Observed, error: Exception, status: int, content: dict[str, str]) -> None:
    def http_error(error: KeplerError) -> HttpError | None:
        return HttpError(404, f"no item: {error}") if isinstance(error, NoModelError) else None

    response = call(make_app(observed, failing(error), http_error=http_error), "GET", "/")
    assert (response.status, response.json()) == (status, content)
    assert response.headers["content-type"] == "application/json"
    assert observed == [("fails", status)]


def test_headers_of_an_error(observed: Observed) -> None:
    response = call(make_app(observed, failing(HttpError(401, "no token", {"WWW-Authenticate": "Bearer"}))), "GET", "/")
    assert response.headers["www-authenticate"] == "Bearer"
    response = call(make_app(observed, failing(StoreError("gone"))), "GET", "/")
    assert response.headers["retry-after"] == "10"


def test_a_defect_is_logged_with_its_traceback(observed: Observed, caplog: pytest.LogCaptureFixture) -> None:
    call(make_app(observed, failing(ValueError("of a handler"))), "GET", "/")
    assert "fails failed; this is a defect of the item server" in caplog.text
    assert "ValueError: of a handler" in caplog.text


def test_unknown_path_and_method(app: App, observed: Observed) -> None:
    response = call(app, "GET", "/nothing")
    assert (response.status, response.json()["msg"]) == (
        404,
        "no such path '/nothing'; GET /openapi.json lists them",
    )
    response = call(app, "PUT", "/items")
    assert response.status == 405
    assert response.headers["allow"] == "POST"
    assert response.json()["msg"] == "PUT is not a method of /items; allowed: POST"
    assert observed == [("other", 404), ("other", 405)]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("max-size=0", "max-size: '0' is not a whole number between 1 and 10"),
        ("max-size=1.5", "max-size: '1.5' is not a whole number between 1 and 10"),
        ("max-size=" + "9" * 5000, "max-size: '" + "9" * 60 + "' is not a whole number between 1 and 10"),
        ("max_size=1", "max_size: unknown parameter; known: max-size, state, verbose, owner"),
        ("max-size=1&max-size=1", "max-size: given twice"),
        ("state=newer", "state: unknown state 'newer'; did you mean new?"),
        (
            "verbose=yes",
            "verbose: 'yes' is not true or false; "
            "a text must be one of 1, t, T, TRUE, true, True, 0, f, F, FALSE, false, False",
        ),
        ("owner=%ff", "owner: not UTF-8"),
    ],
)
def test_wrong_parameters(app: App, query: str, message: str) -> None:
    response = call(app, "GET", f"/items/x?{query}")
    assert (response.status, response.json()["msg"]) == (400, message)


def test_empty_parameters_are_absent(app: App) -> None:
    query = call(app, "GET", "/items/x?max-size=&state=&verbose=&owner=").json()["query"]
    assert query == {"max-size": 3, "state": None, "verbose": False, "owner": None}


def test_parameters_are_utf8(app: App) -> None:
    assert call(app, "GET", "/items/x?owner=Gr%C3%B6%C3%9Fe").json()["query"]["owner"] == "Größe"


def test_wrong_body(app: App) -> None:
    response = call(app, "POST", "/items", b'{"name":"x","size":"1"}')
    assert response.json() == {"msg": "size: expected a whole number, got text", "key": "size"}


# --- the OpenAPI document ---


def test_document_describes_the_routes(app: App) -> None:
    document = call(app, "GET", "/openapi.json").json()
    assert document["info"]["title"] == "Kepler Core item server"
    assert set(document["paths"]) == {"/items/{item}", "/items", "/openapi.json"}
    get = document["paths"]["/items/{item}"]["get"]
    assert [(parameter["name"], parameter["in"]) for parameter in get["parameters"]] == [
        ("item", "path"), ("max-size", "query"), ("state", "query"), ("verbose", "query"), ("owner", "query"),
        ("Idempotency-Key", "header"),
    ]  # fmt: skip
    assert get["parameters"][1]["schema"] == {"type": "integer", "minimum": 1, "maximum": 10, "default": 3}
    assert get["parameters"][2]["schema"] == {"enum": ["new", "old", ""]}
    assert set(get["responses"]) == {"200", "400", "404"}
    content = get["responses"]["200"]["content"]
    assert content == {"application/json": {"schema": {"$ref": "#/components/schemas/Item"}}}


def test_document_describes_the_types(app: App) -> None:
    document = call(app, "GET", "/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["Item"]["description"] == "An item."
    assert schemas["Item"]["required"] == ["name", "query", "key"]
    assert set(schemas["ItemError"]["properties"]) == {"msg", "key", "item"}
    post = document["paths"]["/items"]["post"]
    assert post["requestBody"]["content"] == {"application/json": {"schema": {"$ref": "#/components/schemas/NewItem"}}}
    assert post["responses"]["201"]["headers"]["Location"]["description"] == "Where it is."


def test_document_takes_schemas_that_are_no_types(observed: Observed) -> None:
    body = JsonSchema({"$ref": "#/components/schemas/Foreign"}, {"Foreign": {"type": "object"}})
    app = make_app(observed, Route("POST", "/", "x", lambda body: {}, summary="Take it.", body=body, returns=Error))
    document = call(app, "GET", "/openapi.json").json()
    assert document["components"]["schemas"]["Foreign"] == {"type": "object"}
    request = document["paths"]["/"]["post"]["requestBody"]
    assert request["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Foreign"}
