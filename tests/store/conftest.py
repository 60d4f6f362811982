"""Fixtures with URLs for remote stores: in memory, and on an S3 server that runs for the tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

import pytest
from support.server_process import free_port


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """The URL of an S3 server, which runs in a new process."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.server", reason="moto[server] is not installed")
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the S3 server ended"
                time.sleep(0.05)
        else:
            pytest.fail("the S3 server does not answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a folder in a new bucket of the S3 server."""
    import fsspec
    from support.remote_store import SECRET

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    bucket = f"b{uuid.uuid4().hex}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}/models"


@pytest.fixture(params=["memory", "s3", "s3 without folder"])
def url(request: pytest.FixtureRequest) -> str:
    """The URL of a new store: in memory, in a folder of an S3 bucket, or at the top of a bucket."""
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/models"
    in_bucket: str = request.getfixturevalue("s3")
    return in_bucket if request.param == "s3" else in_bucket.removesuffix("/models")
