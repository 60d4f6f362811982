"""A real Prometheus server, and an HTTP server with scripted answers.

The Prometheus server either has the samples of a recording in its database, or scrapes targets.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from support.process import PATIENCE, wait_for
from support.server_process import free_port

Content = Mapping[str, Sequence[Mapping[str, Any]]]
"""A recording as decoded JSON."""


def need_prometheus() -> None:
    """Skip the test if Debian's package `prometheus` is not installed."""
    for program in ("prometheus", "promtool"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (apt-get install prometheus)")


def open_metrics(content: Content) -> Iterator[str]:
    """Yield the lines of a recording as OpenMetrics text."""
    for metric, series in content.items():
        yield f"# TYPE {metric.removesuffix('_total')} {'counter' if metric.endswith('_total') else 'unknown'}\n"
        for item in series:
            labels = ",".join(
                f"{key}={json.dumps(value, ensure_ascii=False)}"
                for key, value in item["metric"].items()
                if key != "__name__"
            )
            for time, value in item["values"]:
                yield f"{metric}{{{labels}}} {value} {time}\n"
    yield "# EOF\n"


def write_blocks(content: Content, folder: Path) -> None:
    """Create a Prometheus data directory that holds a recording."""
    with tempfile.NamedTemporaryFile("w", suffix=".om", dir=folder.parent) as file:
        file.writelines(open_metrics(content))
        file.flush()
        command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "--quiet", file.name, str(folder)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class PrometheusProcess:
    """A Prometheus server with its own data directory."""

    def __init__(self, folder: Path, *, targets: Sequence[str] = (), scrape: str = "1s") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        scraped = [{"targets": list(targets)}] if targets else []
        (folder / "prometheus.yml").write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": scrape, "scrape_timeout": scrape},
                    "scrape_configs": [{"job_name": "kepler", "honor_labels": True, "static_configs": scraped}],
                }
            )
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def start(self, *options: str) -> None:
        """Start the Prometheus server and wait until it is ready."""
        command = [
            "prometheus",
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
            *options,
        ]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

        def ready() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                with urllib.request.urlopen(f"{self.url}/-/ready", timeout=PATIENCE) as answer:
                    return bool(answer.status == 200)
            except (urllib.error.URLError, OSError):
                return False

        wait_for(ready, "Prometheus is not ready")

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the Prometheus server and wait until its process has ended."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE)
            self.process = None

    def ask(self, query: str) -> Any:
        """Return the result of a PromQL query at the current time."""
        url = f"{self.url}/api/v1/query?query={urllib.parse.quote(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return json.loads(answer.read())["data"]["result"]


@contextmanager
def prometheus(
    folder: Path, content: Content | None = None, *options: str, targets: Sequence[str] = (), scrape: str = "1s"
) -> Iterator[PrometheusProcess]:
    """Run a Prometheus server that holds a recording, or that scrapes `targets`.

    Skip the test if Prometheus is not installed.
    """
    need_prometheus()
    server = PrometheusProcess(folder, targets=targets, scrape=scrape)
    if content is not None:
        write_blocks(content, server.data)
    try:
        server.start(*options)
        yield server
    finally:
        server.stop()


Reply = tuple[int, Mapping[str, str], bytes]
"""An HTTP answer: status, headers and body."""


@contextmanager
def answering(reply: Callable[[str, Mapping[str, str]], Reply]) -> Iterator[str]:
    """Run an HTTP server and yield its URL.

    The function `reply` gets the path and the headers of a request, and returns the answer.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = reply(self.path, dict(self.headers.items()))
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Log no requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
