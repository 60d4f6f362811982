"""Test that incomplete requests do not disturb the port on which the online trainer serves health and metrics."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.online_trainer import PIPELINE
from support.process import ProcessUnderTest
from support.server_process import SHORT_BODIES, free_port, status_of_half_closed


def test_bodies_shorter_than_their_content_length(tmp_path: Path) -> None:
    """The port ignores the body of a request, so it answers even if the body is shorter than Content-Length."""
    (tmp_path / "test.yaml").write_text(PIPELINE)
    port = free_port()
    command = ["serve", "online-trainer", "--server", "http://127.0.0.1:1", "--pipeline", tmp_path / "test.yaml"]
    folders = ["--store", tmp_path / "store", "--state", tmp_path / "state"]
    trainer = ProcessUnderTest([*command, *folders, "--port", str(port)], tmp_path / "trainer.log")
    try:
        trainer.wait_until(lambda: "serving /healthz" in trainer.log, "the trainer does not listen")
        for end in SHORT_BODIES:
            assert status_of_half_closed(port, "GET", "/metrics", end) == 200
            assert status_of_half_closed(port, "POST", "/healthz", end) == 405
            assert status_of_half_closed(port, "GET", "/readyz", end) == 503, "no round can succeed"
            assert status_of_half_closed(port, "DELETE", "/jobs/x", end) == 404
    finally:
        trainer.stop()
    trainer.check_log()
