"""Tests of the webhook listener. Install the distribution first: Kepler Core finds listeners by entry points."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from kepler_core.plugins.hooks import Hooks

NAME = "kepler-hook-webhook:webhook"


@pytest.fixture
def webhook(monkeypatch):
    """Start an HTTP server as the webhook. Yield the list of its requests, as pairs (content type, JSON document)."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("KEPLER_WEBHOOK_URL", f"http://127.0.0.1:{server.server_port}/hook")
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_implements_three_hooks():
    assert set(Hooks(only=NAME).hooks_of(NAME)) == {
        "kepler_training_started",
        "kepler_model_trained",
        "kepler_model_published",
    }


def test_a_training_posts_a_summary(webhook, kepler_run, kepler_recording_file, tmp_path):
    pipeline = tmp_path / "mine.yaml"
    pipeline.write_text(
        "energy_sources: [acpi]\nfeature_groups: [CounterOnly]\n"
        "abs_trainers: [LinearRegressionTrainer, {name: KNeighborsRegressorTrainer, args: {n_neighbors: 100000}}]\n"
    )
    done = kepler_run("train", pipeline, "-i", kepler_recording_file, "-s", "models")
    assert done.returncode == 3, done.stderr
    ((kind, summary),) = webhook
    assert kind == "application/json"
    assert (summary["pipeline"], summary["version"], summary["models"]) == ("mine", 1, 1)
    assert summary["best"]["model"] == "LinearRegressionTrainer_0"
    assert summary["best"]["mae_watts"] > 0
    (failed,) = summary["failed"]
    assert failed["trainer"] == "KNeighborsRegressorTrainer"


def test_a_webhook_that_does_not_answer_is_logged(monkeypatch, caplog):
    monkeypatch.setenv("KEPLER_WEBHOOK_URL", "http://127.0.0.1:9/nobody")
    Hooks(only=NAME).call("kepler_model_published", pipeline="mine", version=1, path="models/mine")
    assert "kepler-hook-webhook:webhook" in caplog.text


def test_without_a_url_nothing_is_sent(monkeypatch, caplog):
    monkeypatch.delenv("KEPLER_WEBHOOK_URL", raising=False)
    Hooks(only=NAME).call("kepler_model_published", pipeline="mine", version=1, path="models/mine")
    assert caplog.text == ""
