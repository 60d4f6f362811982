"""Processes that are ended with all that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.server_process import wait_for

from kepler_servers.process_group import SessionProcess

WORKER = "import subprocess, sys; child = subprocess.Popen(['sleep', '600'], stdout=2); print(child.pid, flush=True)"


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["killed by us", "killed by somebody", "ended"])
def test_what_it_started_ends_with_it(how: str) -> None:
    command = f"{WORKER}; sys.stdin.read()"
    process = SessionProcess([sys.executable, "-c", command])
    child = int(process.stdout.readline())
    assert process.alive
    assert is_there(child)
    if how == "killed by us":
        process.kill()
    elif how == "killed by somebody":
        os.kill(process.pid, signal.SIGKILL)
    else:
        process.stdin.close()
    assert process.end() == (0 if how == "ended" else -signal.SIGKILL)
    assert not process.alive
    wait_for(lambda: not is_there(child), "it is still there")
    process.kill()  # nobody any more


def test_what_it_started_ends_with_its_parent() -> None:
    worker = f"from kepler_servers.parent_watch import end_with_parent; end_with_parent(); {WORKER}; child.wait()"
    parent = (
        "import sys; from kepler_servers.process_group import SessionProcess; "
        f"process = SessionProcess([sys.executable, '-c', {worker!r}]); "
        "print(process.pid, process.stdout.readline().decode(), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    leader, child = map(int, process.stdout.readline().split())
    assert is_there(leader)
    assert is_there(child)
    process.kill()
    process.wait()
    wait_for(lambda: not is_there(leader) and not is_there(child), "they are still there")
