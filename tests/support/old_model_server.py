"""Imitates the answers that the model server of kepler-model-server 0.7 sends to an estimator."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

KEYS_0_6 = frozenset(
    {"metrics", "output_type", "source", "node_type", "weight", "trainer_name", "filter", "pipeline_name"}
)
"""The keys of a request that releases before 0.7 know."""
KEYS_0_7 = KEYS_0_6 | {"spec", "loose_node_type"}


class OldModelServer:
    """A server that sends a model. The status is 500 if a request has an unknown key, and 400 if there is no model."""

    def __init__(self, archive: bytes | None, weights: Mapping[str, Any] | None, keys: frozenset[str] | None) -> None:
        """Set what the server sends: a model as an archive, and a model as weights. None means that there is no model.

        `keys` are the keys of a request that the server knows. If `keys` is None, the server ignores unknown keys.
        """
        self.requests: list[dict[str, Any]] = []
        self._archive = archive
        self._weights = weights
        self._keys = keys
        self.url = ""

    def answer(self, request: dict[str, Any]) -> tuple[int, str, bytes]:
        """Return the status, the content type and the body of the answer to a request."""
        self.requests.append(request)
        if self._keys is not None and not request.keys() <= self._keys:
            return 500, "text/html", b"<title>500 Internal Server Error</title>"
        if not request.get("weight", False):
            if self._archive is not None:
                return 200, "application/zip", self._archive
        elif self._weights is not None:
            return 200, "application/json", json.dumps(self._weights).encode()
        return 400, "text/html; charset=utf-8", b"cannot find model for {'metrics': []} at the moment"


@contextmanager
def old_model_server(
    archive: bytes | None, weights: Mapping[str, Any] | None, keys: frozenset[str] | None = KEYS_0_7
) -> Iterator[OldModelServer]:
    """Run an `OldModelServer` during the `with` block. Its attribute `url` is its address."""
    old = OldModelServer(archive, weights, keys)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, kind, content = old.answer(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        old.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield old
        finally:
            server.shutdown()
