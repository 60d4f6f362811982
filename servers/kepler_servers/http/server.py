"""Start and stop Granian's worker processes, which serve an application over HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from kepler_core.errors import UsageError
from kepler_servers.http.slow_readers import max_connections

HEADER_TIMEOUT_SECONDS = 10.0


def serve(target: str, *, host: str, port: int, workers: int) -> None:
    """Serve an application until the process gets SIGTERM or SIGINT. Then finish the running requests and return.

    `target` names a function as "module:function". Each worker process calls this function once; it returns the
    `RsgiAdapter` that the worker serves. Raises `UsageError` if the server cannot listen on the address.
    """
    from granian.constants import HTTPModes, Interfaces, Loops
    from granian.http import HTTP1Settings
    from granian.log import LogLevels
    from granian.server import Server

    _check_address(host, port)
    Server(
        target,
        address=host,
        port=port,
        interface=Interfaces.RSGI,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=int(HEADER_TIMEOUT_SECONDS * 1000), keep_alive=True),
        loop=Loops.asyncio,
        workers=workers,
        factory=True,
        websockets=False,
        backlog=4096,
        backpressure=max_connections(),
        workers_kill_timeout=10,
        respawn_failed_workers=True,
        respawn_interval=1.0,
        log_level=LogLevels.warning,
    ).serve()


def when_stopping(call: Callable[[], None]) -> None:
    """Register a function that this worker process calls as soon as it gets the signal to stop.

    The process calls the function first, and then waits for running requests. Only the `target` function of `serve` may
    use `when_stopping`. Granian 2.8 has no hook for the stop signal, but it adds signal handlers to the event loop
    after `target` has returned. So `when_stopping` can replace the loop's method that adds signal handlers.
    """
    loop = asyncio.get_event_loop()
    add_signal_handler = loop.add_signal_handler

    def add_with_call(number: int, callback: Callable[..., Any], *arguments: Any) -> None:
        def both() -> None:
            call()
            callback(*arguments)

        add_signal_handler(number, both)

    loop.add_signal_handler = add_with_call  # type: ignore[method-assign,assignment]


def _check_address(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
