"""Tests that no server or command prints the secrets in its URLs, files and environment."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("sklearn")

from support.command import kepler
from support.estimator_clients import REQUEST
from support.estimator_process import running_estimator
from support.online_trainer import PIPELINE
from support.process import PATIENCE, ProcessUnderTest
from support.prometheus_process import Reply, answering
from support.server_process import free_port, serving
from support.trainer_server import training

PASSWORD = "Planted-Password-1"
TOKEN = "Planted-Token-2"
BEARER = "Planted-Bearer-3"
AWS_SECRET = "PlantedAws/Key+4/PlantedEnd"
BASIC = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
SECRETS = (PASSWORD, TOKEN, BEARER, BASIC, AWS_SECRET, AWS_SECRET.partition("/")[0], AWS_SECRET.rpartition("/")[2])
S3_URL = f"s3://AKIAPLANTED:{AWS_SECRET}@bucket/models"


def check(*texts: str | bytes) -> None:
    for text in texts:
        line = text.decode(errors="replace") if isinstance(text, bytes) else text
        for secret in (*SECRETS, "AKIAPLANTED"):
            assert secret not in line, line[-2000:]


@pytest.fixture
def echo() -> Iterator[str]:
    """An HTTP server whose errors and redirects repeat the URL and the credentials of the request."""

    def reply(path: str, headers: Mapping[str, str]) -> Reply:
        if path.startswith("/loop"):
            return 302, {"Location": f"http://user:{PASSWORD}@127.0.0.1:1{path}"}, b""
        text = f"{path} is wrong: {headers.get('Authorization')}"
        body = json.dumps({"status": "error", "errorType": "bad", "error": text, "msg": text}).encode()
        return 400, {}, body

    with answering(reply) as url:
        yield url


def with_secrets(url: str, path: str = "", *, password: bool = True, query: bool = True) -> str:
    """Return a URL to which a user, a password and a query with a token are added."""
    user = f"user:{PASSWORD}@" if password else ""
    return url.replace("://", f"://{user}") + path + (f"?token={TOKEN}" if query else "")


def test_the_model_server(echo: str, tmp_path: Path) -> None:
    initial = [
        with_secrets(echo, "/a.zip"),
        with_secrets(echo, "/a.zip", password=False),
        with_secrets(echo, "/loop", password=False),
        with_secrets("http://127.0.0.1:1", "/a.zip", password=False),
        with_secrets(echo, "/a b.zip", password=False),
        with_secrets("file://", f"{tmp_path}/none.zip", password=False),
    ]
    environ = {"INITIAL_PIPELINE_URL": ",".join(initial), "AWS_SECRET_ACCESS_KEY": AWS_SECRET}
    (tmp_path / "store").mkdir()
    with serving(tmp_path / "store", tmp_path / "log", environ=environ, ready_path="/healthz") as server:
        server.wait_until(lambda: server.log.count("ERROR initial pipeline") >= len(initial), "no import failed")
        answers = [server.get(path).body for path in ("/healthz", "/readyz", "/metrics", "/models", "/x")]
        check(*answers, server.post(REQUEST).body)
    check(server.log)


def test_the_offline_trainer(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(BEARER)
    with training(tmp_path, "--token-file", str(tmp_path / "token")) as server:
        right = {"Authorization": f"Bearer {BEARER}"}
        for headers in (right, {"Authorization": f"Basic {BEARER}"}, {}):
            for path in ("/jobs", "/metrics", "/healthz", f"/jobs/x?token={TOKEN}", "/openapi.json"):
                check(server.ask("GET", path, headers=headers).body.replace(TOKEN.encode(), b""))
            check(server.ask("POST", "/train", b'{"name":', headers).body)
    check(server.log)


def test_the_estimator(echo: str, tmp_path: Path) -> None:
    servers = [
        with_secrets(echo),
        with_secrets(echo, "/model", password=False),
        with_secrets(echo, "/loop", password=False),
        with_secrets("http://127.0.0.1:1", "/x", password=False),
    ]
    for number, url in enumerate(servers):
        keys = {"MODEL_SERVER_URL": url, "NODE_COMPONENTS_INIT_URL": url}
        port = free_port()
        with running_estimator(tmp_path / f"{number}.sock", "--metrics-port", str(port), environ=keys) as estimator:
            replies = [json.dumps(estimator.ask(REQUEST)) for _ in range(2)]
            estimator.wait_until(lambda: "model server" in estimator.log, "no model was looked for")
            check(*replies, json.dumps(estimator.status()), metrics(port))
        check(estimator.log)


def test_the_estimator_shows_the_url_of_a_model_in_use_without_secrets(tmp_path: Path) -> None:
    """The estimator's status and a label of its metrics contain the URL of a model, but not the secrets in this URL."""
    from support.linear_models import ABS

    from kepler_core.store.layout import zip_bytes

    content = zip_bytes(ABS.stored()[1])
    with answering(lambda path, headers: (200, {}, content)) as url:
        keys = {"NODE_COMPONENTS_INIT_URL": with_secrets(url, "/abs.zip", password=False)}
        port = free_port()
        with running_estimator(tmp_path / "e.sock", "--metrics-port", str(port), environ=keys) as estimator:
            estimator.ask(REQUEST)
            estimator.wait_until(lambda: bool(estimator.providers_in_use()), "the model is not loaded")
            assert estimator.providers_in_use() == [f"URL {url}/abs.zip"]
            exposition = metrics(port)
            assert f"{url}/abs.zip".encode() in exposition
            check(json.dumps(estimator.status()), exposition)
        check(estimator.log)


def metrics(port: int) -> bytes:
    import urllib.request

    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        return bytes(answer.read())


def test_the_online_trainer(echo: str, tmp_path: Path) -> None:
    (tmp_path / "test.yaml").write_text(PIPELINE)
    (tmp_path / "bearer").write_text(BEARER)
    for number, (url, *access) in enumerate(
        (
            [with_secrets(echo, query=False)],
            [echo, "--token-file", str(tmp_path / "bearer")],
        )
    ):
        port = free_port()
        command = ["-v", "serve", "online-trainer", "--pipeline", tmp_path / "test.yaml", "--server", url, *access]
        folders = ["--store", tmp_path / "store", "--state", tmp_path / f"state{number}", "--port", str(port)]
        trainer = ProcessUnderTest([*command, *folders], tmp_path / f"{number}.log")
        try:
            trainer.wait_until(partial(round_failed, trainer), "no round failed")
            check(metrics(port), health(port))
        finally:
            trainer.stop()
        check(trainer.log)


def round_failed(trainer: ProcessUnderTest) -> bool:
    return "ERROR" in trainer.log or "WARNING" in trainer.log


def health(port: int) -> bytes:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/healthz")
    content = connection.getresponse().read()
    connection.close()
    return content


def test_commands(echo: str, tmp_path: Path) -> None:
    (tmp_path / "bearer").write_text(BEARER)
    (tmp_path / "recording.json").write_text("{}")
    (tmp_path / "request.json").write_text(json.dumps(REQUEST))
    down = "http://127.0.0.1:1"
    output = ("--output", str(tmp_path / "out.json"), "--last", "5m", "--patience", "0s")
    submit = ("submit", "quickstart", "--input", str(tmp_path / "recording.json"), "--server")
    commands = [
        ("query", *output, "--server", with_secrets(echo, query=False)),
        ("query", *output, "--server", echo, "--token-file", str(tmp_path / "bearer")),
        ("query", *output, "--server", with_secrets(down, query=False)),
        (*submit, with_secrets(echo, password=False), "--token-file", str(tmp_path / "bearer")),
        ("store", "import", with_secrets(down, "/x"), "-s", str(tmp_path / "s")),
        ("store", "import", with_secrets(echo, "/loop", password=False), "-s", str(tmp_path / "s")),
        ("store", "list", "-s", S3_URL),
        ("select", "-s", S3_URL, "--request", str(tmp_path / "request.json")),
        ("profile", "show", S3_URL),
        ("serve", "model-server", "-s", S3_URL),
        ("serve", "offline-trainer", "-s", S3_URL, "--state", str(tmp_path / "state")),
        ("serve", "estimator", "-s", S3_URL, "--socket", str(tmp_path / "e.sock")),
    ]
    with_malformed_urls = [
        *(("query", *output, "--server", url) for url in malformed(echo)),
        *((*submit, url) for url in malformed(echo)),
        *(("store", "import", url, "-s", str(tmp_path / "s")) for url in malformed(echo)),
        *(("store", "list", "-s", url) for url in malformed("s3://bucket")),
        *(("serve", "estimator", "--model-server", f"x{url}", "--socket", "e.sock") for url in malformed(echo)),
    ]
    # The first malformed URL of each command is tried in a new process, the others in this process, which is quicker.
    processes = [*commands, *with_malformed_urls[:: len(malformed(echo))]]
    for command in (*commands, *with_malformed_urls):
        done = (run if command in processes else kepler)(*command)
        assert done.returncode != 0, command
        assert "Traceback" not in done.stderr, done.stderr
        check(done.stdout, done.stderr)
    for url in malformed("FILE:///none"):
        done = kepler("store", "list", "-s", url)
        assert "Traceback" not in done.stderr, done.stderr
        check(done.stdout, done.stderr)


def malformed(url: str) -> list[str]:
    """Return URLs that contain secrets, and that a command rejects or cannot use."""
    scheme, _, rest = url.partition("://")
    return [
        f"{scheme}://user:{PASSWORD}@{rest}/x?token={TOKEN}",
        f"{scheme}://user:a/{PASSWORD}@{rest}",
        f"{scheme}://user:a#{PASSWORD}@{rest}",
        f"{scheme}://user:{PASSWORD}@[",
        f"{scheme}://user:{PASSWORD}@\u2100/",
        f"{scheme}://user:{urllib.parse.quote(AWS_SECRET, safe='')}@{rest}#{TOKEN}",
        f"{scheme}x://user:{PASSWORD}@{rest}",
    ]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "kepler_core", *command],
        check=False,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,
    )
