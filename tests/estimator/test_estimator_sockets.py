"""Tests of socket files: permissions, stale socket files, other files at the socket's path, and symbolic links."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.estimator_clients import REQUEST, WATTS, connect
from support.estimator_process import EstimatorProcess, running_estimator
from support.paths import ROOT
from support.process import PATIENCE

from kepler_core.errors import UsageError
from kepler_servers.estimator import listening as listening_module
from kepler_servers.estimator.listening import listen


def test_the_socket_file_has_mode_0660_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with running_estimator(tmp_path / "e.sock") as estimator:
            assert stat.S_IMODE(os.stat(estimator.path).st_mode) == 0o660
    finally:
        os.umask(before)


def test_a_signal_while_the_estimator_starts(tmp_path: Path) -> None:
    for number in range(12):
        estimator = EstimatorProcess(tmp_path / f"{number}.sock")
        estimator.wait_until(estimator.path.exists, "there is no socket file")
        time.sleep(0.01 * number)  # the signal comes while the estimator imports modules
        assert estimator.stop() == 0, estimator.log
        assert not estimator.path.exists()


def test_a_stale_socket_is_replaced(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with running_estimator(path, "-s", store) as estimator:
        assert estimator.ask(REQUEST)["powers"] == WATTS


def test_the_socket_of_a_killed_estimator_is_replaced(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    for _ in range(2):
        estimator = EstimatorProcess(path, "-s", store)
        estimator.wait_ready()
        assert estimator.ask(REQUEST)["powers"] == WATTS
        estimator.process.kill()
        estimator.process.wait(PATIENCE)
        assert path.exists()
    with running_estimator(path, "-s", store) as last:
        assert last.ask(REQUEST)["powers"] == WATTS


def test_two_estimators_that_start_at_once_over_a_stale_socket(tmp_path: Path) -> None:
    """One estimator listens, and clients reach it. The other estimator reports that another process listens."""
    command = [sys.executable, "-m", "support.simultaneous_start", tmp_path / "e.sock", "300"]
    done = subprocess.run(
        command, cwd=ROOT / "tests", capture_output=True, text=True, check=False, timeout=4 * PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 1"] * 300
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_module, "_LOCK_TIMEOUT_SECONDS", 0.2)
    with (tmp_path / "e.sock.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match=r"another process has locked .*e\.sock\.lock"):
            listen([str(tmp_path / "e.sock")])
    # The lock file that a killed process has left does not prevent a new start.
    for listening in listen([str(tmp_path / "e.sock")]):
        listening.close()
    assert list(tmp_path.iterdir()) == []


def check_refused(folder: Path, path: Path, reason: str) -> None:
    """Check that an estimator with the socket path `path` ends at once, and logs one line with path and reason."""
    estimator = EstimatorProcess(path, log=folder / "refused.log")
    assert estimator.process.wait(PATIENCE) == 2
    assert len(estimator.log.splitlines()) == 1, estimator.log
    assert str(path) in estimator.log
    assert reason in estimator.log


def test_the_socket_of_a_running_estimator_is_refused(store: Path, tmp_path: Path) -> None:
    with running_estimator(tmp_path / "e.sock", "-s", store) as estimator:
        check_refused(tmp_path, estimator.path, "another process listens there")
        assert estimator.ask(REQUEST)["powers"] == WATTS
        (tmp_path / "link.sock").symlink_to(estimator.path)
        check_refused(tmp_path, tmp_path / "link.sock", "another process listens there")
        assert estimator.ask(REQUEST)["powers"] == WATTS


def test_a_file_of_another_kind_is_refused_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "e.sock"
    path.write_text("precious")
    check_refused(tmp_path, path, "not a socket")
    assert path.read_text() == "precious"
    (tmp_path / "link.sock").symlink_to(path)
    check_refused(tmp_path, tmp_path / "link.sock", "not a socket")
    assert path.read_text() == "precious"


def test_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    check_refused(tmp_path, tmp_path / "folder", "not a socket")
    check_refused(tmp_path, tmp_path / "none" / "e.sock", "No such file")
    os.mkfifo(tmp_path / "pipe")
    check_refused(tmp_path, tmp_path / "pipe", "not a socket")


def test_a_path_longer_than_the_kernel_allows(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        listen([str(tmp_path / ("x" * 120))])


def test_links_to_nothing_and_to_a_stale_socket_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "nothing.sock").symlink_to(tmp_path / "none")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    (tmp_path / "dead.sock").symlink_to(tmp_path / "dead")
    for listening in listen([str(tmp_path / "nothing.sock"), str(tmp_path / "dead.sock")]):
        with connect(listening.path):
            pass
        listening.close()
        assert not os.path.lexists(listening.path)


def test_listening_on_several_paths(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.sock", "b.sock")]
    sockets = listen(names)
    try:
        assert [str(listening.path) for listening in sockets] == names
        for listening in sockets:
            assert stat.S_IMODE(os.lstat(listening.path).st_mode) == 0o660
            with connect(listening.path):
                pass
    finally:
        for listening in sockets:
            listening.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("order", [("a.sock", "b.sock"), ("b.sock", "a.sock")])
def test_one_path_may_be_a_link_to_the_other(tmp_path: Path, order: tuple[str, str]) -> None:
    """Clients can connect to both socket paths, even if one path is a link to the other as in existing deployments."""
    (tmp_path / "b.sock").symlink_to(tmp_path / "a.sock")
    sockets = listen([str(tmp_path / name) for name in order])
    try:
        for name in order:
            with connect(tmp_path / name):
                pass
    finally:
        for listening in sockets:
            listening.close()


def test_if_one_path_is_refused_no_socket_file_is_left(tmp_path: Path) -> None:
    (tmp_path / "b.sock").write_text("")
    with pytest.raises(UsageError, match=r"b\.sock: there is a file that is not a socket"):
        listen([str(tmp_path / "a.sock"), str(tmp_path / "b.sock")])
    assert not (tmp_path / "a.sock").exists()


def test_closing_does_not_remove_a_socket_that_replaced_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    (first,) = listen([str(path)])
    path.rename(tmp_path / "moved.sock")
    (second,) = listen([str(path)])
    first.close()
    with connect(path):
        pass
    second.close()
    assert not path.exists()
