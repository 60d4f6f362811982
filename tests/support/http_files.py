"""Serves a folder over HTTP."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def http_files(folder: Path) -> Iterator[str]:
    """Serve the files of a folder over HTTP during the `with` block. Yield the URL of the folder."""

    def handler(*arguments: Any) -> Any:
        return http.server.SimpleHTTPRequestHandler(*arguments, directory=str(folder))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
