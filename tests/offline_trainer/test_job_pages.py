"""Tests of the offline trainer's pages over HTTP: access with the token, and jobs that failed."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from support.trainer_server import TrainerFolder, TrainerServer, request, training

TOKEN = "0123456789abcdef"
PAGES = ("/", "/?state=failed", "/ui/jobs/0123", "/ui/jobs/0123/result")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerServer]:
    folder = TrainerFolder(tmp_path_factory.mktemp("guarded"))
    (folder.root / "token").write_text(TOKEN)
    with training(folder.root, "--token-file", str(folder.root / "token")) as server:
        yield server


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()}


@pytest.mark.parametrize("path", PAGES)
def test_pages_need_the_token(guarded: TrainerServer, path: str) -> None:
    for headers in ({}, basic("wrong"), {"Authorization": "Basic %%%"}, {"Authorization": "Bearer wrong"}):
        answer = guarded.ask("GET", path, headers=headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="Kepler Core", charset="UTF-8"'
        assert answer.headers["content-type"].startswith("text/html")
        assert TOKEN.encode() not in answer.body
    status = 404 if "0123" in path else 200
    for headers in (basic(TOKEN), {"Authorization": f"Bearer {TOKEN}"}):
        assert guarded.ask("GET", path, headers=headers).status == status


@pytest.mark.parametrize(("method", "path"), [("POST", "/train"), ("DELETE", "/jobs/0123"), ("GET", "/jobs")])
def test_the_password_of_a_browser_opens_pages_only(guarded: TrainerServer, method: str, path: str) -> None:
    answer = guarded.ask(method, path, b"{}" if method == "POST" else None, basic(TOKEN))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"


def test_the_description_of_the_endpoints_needs_no_token(guarded: TrainerServer) -> None:
    page = guarded.get("/docs").body.decode()
    assert "Authorization: Bearer $TOKEN" in page
    assert "DELETE /jobs/{job}" in page
    assert guarded.get("/ui/assets/style.css").status == 200


def test_pages_obey_the_check_of_the_host(guarded: TrainerServer) -> None:
    answer = guarded.ask("GET", "/", headers={"Host": "attacker.example", **basic(TOKEN)})
    assert answer.status == 403
    assert answer.headers["content-type"].startswith("text/html")


def test_a_failed_job_shows_its_error(server: TrainerServer) -> None:
    # The request is valid, but its recording has no data of the energy source rapl-sysfs.
    url = server.submit(request(name="without-data", energy_source="rapl-sysfs"))
    job = server.until(url, "failed")
    page = server.get(f"/ui{url}").body.decode()
    assert f"The job failed (status {job['error']['status']})" in page
    assert 'data-seconds="0"' in page
    assert server.get(f"/ui{url}/result").status == job["error"]["status"]
    assert url.removeprefix("/jobs/")[:8] in server.get("/?state=failed").body.decode()
    assert url.removeprefix("/jobs/")[:8] not in server.get("/?state=done").body.decode()


def test_unknown_states_and_jobs_are_error_pages(server: TrainerServer) -> None:
    for path, status in (("/?state=lost", 400), ("/ui/jobs/<b>", 404), ("/?offset=x", 400)):
        answer = server.get(path.replace("<", "%3C").replace(">", "%3E"))
        assert answer.status == status
        assert answer.headers["content-type"].startswith("text/html")
        assert b"<b>" not in answer.body
