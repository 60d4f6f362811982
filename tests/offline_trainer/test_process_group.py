"""Tests of `SessionProcess`: if it is killed or ends, all processes that it started end, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.process import wait_for

from kepler_servers.process_group import SessionProcess

WORKER = "import subprocess, sys; child = subprocess.Popen(['sleep', '600'], stdout=2); print(child.pid, flush=True)"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", ["kill()", "SIGKILL from outside", "closed input"])
def test_a_child_ends_with_the_process_that_started_it(how: str) -> None:
    process = SessionProcess([sys.executable, "-c", f"{WORKER}; sys.stdin.read()"])
    child = int(process.stdout.readline())
    assert process.alive
    assert is_running(child)
    if how == "kill()":
        process.kill()
    elif how == "SIGKILL from outside":
        os.kill(process.pid, signal.SIGKILL)
    else:
        process.stdin.close()
    assert process.end() == (0 if how == "closed input" else -signal.SIGKILL)
    assert not process.alive
    wait_for(lambda: not is_running(child), "the child still runs")
    process.kill()  # a second `kill` does nothing and raises nothing


def test_a_group_ends_with_its_parent() -> None:
    worker = f"from kepler_core.parent_watch import end_with_parent; end_with_parent(); {WORKER}; child.wait()"
    parent = (
        "import sys; from kepler_servers.process_group import SessionProcess; "
        f"process = SessionProcess([sys.executable, '-c', {worker!r}]); "
        "print(process.pid, process.stdout.readline().decode(), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    leader, child = map(int, process.stdout.readline().split())
    assert is_running(leader)
    assert is_running(child)
    process.kill()
    process.wait()
    wait_for(lambda: not is_running(leader) and not is_running(child), "the group outlives the parent")
