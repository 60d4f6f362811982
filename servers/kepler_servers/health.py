"""Ask running servers for their health: over HTTP, or over the estimator's unix socket."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Iterator
from urllib.parse import SplitResult

import msgspec

from kepler_core.client import EstimatorClient, EstimatorError
from kepler_core.configuration import Configuration
from kepler_core.deadlines import Deadline, DeadlineError
from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import UsageError
from kepler_core.messages import printable, reason_of
from kepler_core.urls import is_url, shown_url, split_url

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"

_PORTS = {
    "model-server": ("MODEL_SERVER_PORT", 8100),
    "offline-trainer": ("OFFLINE_TRAINER_PORT", 8102),
    "online-trainer": ("ONLINE_TRAINER_PORT", 8103),
    "meter": ("METER_METRICS_PORT", 8104),
}
"""Configuration key of each server's port, and the default port."""
_SOCKETS = ("/tmp/estimator.sock", "/tmp/estimator.socket")  # noqa: S108 - Kepler uses the first path
_MAX_BODY_BYTES = 2**20
_REASON_KEYS = ("problem", "not_ready", "store_problem", "error")
"""Keys in the servers' answers whose values state why a server is not healthy or not ready."""


class ServerHealth(msgspec.Struct, frozen=True):
    """The health of one server, as the server states it, or the reason why the server did not answer."""

    target: str
    """URL without secrets, or path of the unix socket."""
    healthy: bool
    state: str
    """What the server states about itself (ok, degraded, ready …), or the reason why it is not healthy."""
    running: bool = True
    """Whether a server listens at the address."""


def default_targets(configuration: Configuration) -> Iterator[str]:
    """Yield the addresses of the servers on this machine: the configured addresses, or else the servers' defaults.

    Raises `UsageError` if a configured port is not a number.
    """
    for key, port in _PORTS.values():
        text = configuration.text(key)
        if text is not None and not text.isdecimal():
            raise UsageError(f"{key}: {text!r} is not a number")
        yield f"http://127.0.0.1:{text or port}"
    socket = configuration.text("ESTIMATOR_SOCKET")
    yield from (socket,) if socket is not None else _SOCKETS


def check(target: str, *, ready: bool = False, timeout: float = 3.0) -> ServerHealth:
    """Return the health of the server at `target`: an http(s) URL, or the path of an estimator's unix socket.

    If the URL has no path, the function requests `/healthz` or, with `ready`, `/readyz`. `timeout` is in seconds.
    Raises `UsageError` if the target is neither an http(s) URL nor a path.
    """
    if not is_url(target):
        if "/" not in target and ":" in target:
            raise UsageError(f"{target}: neither a URL nor the path of a socket; did you mean http://{target} ?")
        return _check_socket(target, ready, timeout)
    url = split_url(target)
    if url.scheme not in ("http", "https") or url.hostname is None:
        raise UsageError(f"{shown_url(target)}: not the URL of a server (http://HOST:PORT)")
    try:
        url.port  # noqa: B018 - raises ValueError if it is not a port
    except ValueError as error:
        raise UsageError(f"{shown_url(target)}: {error}") from error
    if url.path in ("", "/"):
        url = url._replace(path=READY_PATH if ready else HEALTH_PATH)
    shown = shown_url(url.geturl())
    try:
        status, content = Deadline(timeout).run(lambda: _get(url, timeout))
    except ConnectionRefusedError:
        return ServerHealth(shown, healthy=False, state="nothing listens there", running=False)
    except (OSError, http.client.HTTPException, DeadlineError) as error:
        return ServerHealth(shown, healthy=False, state=printable(f"no answer: {reason_of(error)}"))
    return ServerHealth(shown, healthy=status == 200, state=_state(status, content))


def _get(url: SplitResult, timeout: float) -> tuple[int, bytes]:
    """Send a GET request without any proxy. Return the status and the start of the body."""
    host = str(url.hostname)
    connection = (
        http.client.HTTPSConnection(host, url.port, timeout=timeout, context=ssl.create_default_context())
        if url.scheme == "https"
        else http.client.HTTPConnection(host, url.port, timeout=timeout)
    )
    try:
        connection.request("GET", url.path + (f"?{url.query}" if url.query else ""))
        response = connection.getresponse()
        return response.status, response.read(_MAX_BODY_BYTES)
    finally:
        connection.close()


def _state(status: int, content: bytes) -> str:
    """Return a short text for people with the state that a server's answer reports."""
    try:
        body = decode_object(content)
    except DocumentError:
        return f"HTTP status {status}, and the answer is not JSON"
    reason = next((text for key in _REASON_KEYS if isinstance(text := body.get(key), str) and text), None)
    word = body.get("status")
    if not isinstance(word, str) or (status != 200 and word == "ok"):
        word = "ok" if status == 200 else "not ready"
    return printable(f"{word}: {reason}" if reason is not None else word)


def _check_socket(path: str, ready: bool, timeout: float) -> ServerHealth:
    try:
        status = Deadline(timeout).run(EstimatorClient(path, timeout=timeout).status)
    except (EstimatorError, DeadlineError) as error:
        running = not isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)
        reason = str(error).removeprefix(f"{path}: ") if running else "nothing listens there"
        return ServerHealth(path, healthy=False, state=printable(reason), running=running)
    if ready and not status.get("origins"):
        return ServerHealth(path, healthy=False, state="not ready: no model server, URL or store is configured")
    return ServerHealth(path, healthy=True, state="ok")
