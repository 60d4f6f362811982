"""Tests of access tokens, and of wrong settings with which the offline trainer does not start."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.process import PATIENCE
from support.trainer_server import TrainerFolder, TrainerServer, start, training


def test_requests_need_the_token(own: TrainerFolder) -> None:
    token = own.root / "token"
    token.write_text("the-secret\n")
    with training(own.root, "--token-file", str(token)) as server:
        for authorization in ("", "Bearer", "Bearer wrong", "Basic the-secret", "Bearer the-secre\xe4"):
            headers = {"Authorization": authorization} if authorization else {}
            for method, path in (
                ("GET", "/jobs"),
                ("GET", "/jobs?x=1"),
                ("GET", "/metrics"),
                ("DELETE", "/jobs/x"),
                ("POST", "/train"),
            ):
                answer = server.ask(method, path, b"{" if method == "POST" else None, headers)
                assert answer.status == 401, (path, answer.body)
                assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer the-secret"}
        assert server.ask("GET", "/jobs", headers=right).json()["total"] == 0
        assert server.ask("POST", "/train", b"{", right).status == 400
        assert server.get("/healthz").status == 200


def test_web_pages_of_other_hosts_are_refused(own: TrainerFolder) -> None:
    """A request is refused if its header Host or Origin names the host of an unknown web page.

    A browser sends the page's host in the header Host after DNS rebinding, and in Origin in a cross-site request.
    """
    with training(own.root, "--allow-host", "Trainer.Example") as server:
        local = f"127.0.0.1:{server.port}"
        requests = (("GET", "/jobs"), ("DELETE", "/jobs/x"), ("POST", "/train"), ("POST", "/train?async=1"))
        for method, path in (*requests, ("GET", "/healthz"), ("GET", "/metrics")):
            body = b"{" if method == "POST" else None
            for host, origin in (
                ("attacker.example", None),
                ("127.0.0.1.attacker.example", None),
                (local, "http://attacker.example"),
                (local, "null"),
                (local, "http://["),
            ):
                headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
                answer = server.ask(method, path, body, headers)
                assert answer.status == 403, (method, path, headers, answer.body)
                assert "--allow-host" in answer.json()["msg"]
                assert "\n" not in answer.json()["msg"]
            for host, origin in (
                (local, None),
                ("localhost", f"http://{local}"),
                ("[::1]:80", "http://localhost:1"),
                ("trainer.example:443", "https://trainer.example"),
            ):
                headers = {"Host": host} | ({} if origin is None else {"Origin": origin})
                assert server.ask(method, path, body, headers).status != 403, (method, path, headers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--token-file, or --insecure"),
        (["--host", "::"], "--token-file, or --insecure"),
        (["--token-file", "/no/such"], "No such file"),
        (["--scheduler", "tcp://x:1"], "needs --backend dask"),
        (["--max-body", "5 apples"], "not a size"),
        (["--state", "/dev/null/x"], "--state /dev/null/x"),
    ],
)
def test_wrong_options_end_the_server(tmp_path: Path, arguments: list[str], message: str) -> None:
    server = start(tmp_path, *arguments)
    assert server.process.wait(PATIENCE) == 2
    assert message in server.log


def test_a_state_folder_has_one_server(server: TrainerServer, folder: TrainerFolder, tmp_path: Path) -> None:
    second = start(tmp_path, "--state", str(folder.state))
    assert second.process.wait(PATIENCE) == 2
    assert "used by another offline trainer" in second.log
