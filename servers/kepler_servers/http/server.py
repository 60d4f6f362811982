"""Granian's worker processes, which serve an application."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from kepler_core.errors import UsageError

HEADER_TIMEOUT_SECONDS = 10.0
MAX_CONNECTIONS = 8192
"""Connections of one worker. Further ones wait."""


def serve(target: str, *, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests that have begun and return.

    `target` is "module:function"; each worker process calls it once for its `RsgiAdapter`. Raises `UsageError` if the
    address cannot be used.
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
        backlog=1024,
        backpressure=MAX_CONNECTIONS,
        workers_kill_timeout=10,
        respawn_failed_workers=True,
        respawn_interval=1.0,
        log_level=LogLevels.warning,
    ).serve()


def when_stopping(call: Callable[[], None]) -> None:
    """Have a function called when this worker process gets its stop signal, before it waits for running requests.

    Use it in the function that makes the application: Granian 2.8 has no such hook, but sets its signal handlers after
    that function has returned.
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
