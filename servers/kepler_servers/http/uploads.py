"""Large bodies: each goes into an `Upload` while it arrives, with time limits of its own."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any

from kepler_servers.http.answer import HttpError

UPLOAD_IDLE_TIMEOUT_SECONDS = 30.0
"""Idle timeout of an upload."""
UPLOAD_GRACE_SECONDS = 30.0
"""Time before `MIN_UPLOAD_BYTES_PER_SECOND` applies to an upload."""
MIN_UPLOAD_BYTES_PER_SECOND = 16 * 1024
"""Lowest average rate of an upload. It ends clients that send a byte now and then."""

DISCARD_TIMEOUT_SECONDS = 10.0
MAX_DISCARDED_BYTES = 64 * 2**20
"""Largest part of a refused body that is read and discarded. A client that is still sending would otherwise find the
connection closed, and not read the answer."""

_BLOCK_BYTES = 2**20


class Upload(ABC):
    """Where a large body goes while it arrives.

    Threads call the methods, one after the other. Each may raise `HttpError`, which ends the request.
    """

    @abstractmethod
    def write(self, block: bytes) -> None:
        """Take the next part of the body."""

    @abstractmethod
    def close(self) -> None:
        """Release everything at the end of the request, whether it has succeeded or failed."""


async def receive(scope: Any, protocol: Any, upload: Upload, threads: Executor) -> None:
    """Write a request's body into its upload; raise `HttpError` if the body is too slow or incomplete."""
    loop = asyncio.get_running_loop()
    length = scope.headers.get("content-length")
    started = loop.time()
    received = 0
    block = bytearray()
    chunks = aiter(protocol) if length is not None or "transfer-encoding" in scope.headers else None
    while chunks is not None:
        try:
            async with asyncio.timeout(UPLOAD_IDLE_TIMEOUT_SECONDS):
                chunk = await anext(chunks)
        except StopAsyncIteration:
            break
        except RuntimeError:  # the client has closed its side of the connection: it may still read
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the body stopped after {received} bytes") from None
        except TimeoutError:
            message = f"nothing of the body came for {UPLOAD_IDLE_TIMEOUT_SECONDS:g} s, after {received} bytes"
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, message) from None
        received += len(chunk)
        seconds = loop.time() - started
        if seconds > UPLOAD_GRACE_SECONDS and received < MIN_UPLOAD_BYTES_PER_SECOND * seconds:
            message = f"the body came at less than {MIN_UPLOAD_BYTES_PER_SECOND} bytes a second"
            raise HttpError(HTTPStatus.REQUEST_TIMEOUT, message)
        block += chunk
        if len(block) >= _BLOCK_BYTES:
            await loop.run_in_executor(threads, upload.write, bytes(block))
            block.clear()
    if length is not None and length.isdecimal() and received != int(length):
        raise HttpError(HTTPStatus.BAD_REQUEST, f"the body stopped after {received} of {length} bytes")
    if block:
        await loop.run_in_executor(threads, upload.write, bytes(block))


async def discard(protocol: Any, length: int | None) -> None:
    """Read what is left of a refused body, unless that is too much or takes too long."""
    if length is not None and length > MAX_DISCARDED_BYTES:
        return
    received = 0
    try:
        async with asyncio.timeout(DISCARD_TIMEOUT_SECONDS):
            async for chunk in protocol:
                received += len(chunk)
                if received > MAX_DISCARDED_BYTES:
                    return
    except (TimeoutError, RuntimeError):  # the client is too slow, or has sent everything
        return
