"""Receive large request bodies. Each body is written into an `Upload` while it arrives, with time limits."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from concurrent.futures import Executor
from http import HTTPStatus
from typing import Any

from kepler_servers.http.answer import HttpError

UPLOAD_IDLE_TIMEOUT_SECONDS = 30.0
"""An upload is ended if no byte of it arrives for this time."""
UPLOAD_GRACE_SECONDS = 30.0
"""Time after the start of an upload during which `MIN_UPLOAD_BYTES_PER_SECOND` does not apply yet."""
MIN_UPLOAD_BYTES_PER_SECOND = 16 * 1024
"""Minimum average rate of an upload. Without this limit, a client could send a byte now and then, and never end."""

DISCARD_TIMEOUT_SECONDS = 10.0
MAX_DISCARDED_BYTES = 64 * 2**20
"""Maximum number of bytes of a refused body that are read and discarded. If the server closed the connection while the
client is still sending, the client would get a connection error, and would not read the answer."""

_BLOCK_BYTES = 2**20


class Upload(ABC):
    """Interface of an object that receives a large request body while the body arrives.

    The methods are called in threads, but never two of them at the same time. Each method may raise `HttpError`, which
    ends the request.
    """

    @abstractmethod
    def write(self, block: bytes) -> None:
        """Receive the next part of the body."""

    @abstractmethod
    def close(self) -> None:
        """Release the upload's resources at the end of the request, whether the request has succeeded or failed."""


async def receive(scope: Any, protocol: Any, upload: Upload, threads: Executor) -> None:
    """Write the body of a request into `upload`. Raises `HttpError` if the body arrives too slowly or is incomplete."""
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
        except RuntimeError:  # the client has closed its sending direction, but may still read the answer
            raise HttpError(HTTPStatus.BAD_REQUEST, f"the body stopped after {received} bytes") from None
        except TimeoutError:
            message = f"no byte of the body arrived for {UPLOAD_IDLE_TIMEOUT_SECONDS:g} s, after {received} bytes"
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
    """Read and discard the rest of a refused body, up to `MAX_DISCARDED_BYTES` and `DISCARD_TIMEOUT_SECONDS`."""
    if length is not None and length > MAX_DISCARDED_BYTES:
        return
    received = 0
    try:
        async with asyncio.timeout(DISCARD_TIMEOUT_SECONDS):
            async for chunk in protocol:
                received += len(chunk)
                if received > MAX_DISCARDED_BYTES:
                    return
    except (TimeoutError, RuntimeError):  # the client is too slow, or the whole body has arrived already
        return
