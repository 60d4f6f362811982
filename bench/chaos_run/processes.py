"""The processes of a chaos run's servers, which are started, killed, restarted and measured."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs
from support.process import ProcessUnderTest

from chaos_run.ledger import Ledger

MARK = "KEPLER_CHAOS_RUN"
"""Environment variable that all processes of a run inherit. It identifies processes that outlive their parent."""
START_TIMEOUT_SECONDS = 60.0
STOP_TIMEOUT_SECONDS = 30.0
ORPHAN_SECONDS = 15.0
"""Time in seconds, after the kill of a server, within which its child processes must end."""
RESTART_PAUSE_SECONDS = (0.0, 1.5)
_POLL_SECONDS = 0.1


@attrs.define(eq=False)
class Life:
    """The life of one process, from its start to its end."""

    server: str
    pid: int
    started: float
    """Time of the start. All times are values of `time.monotonic`."""
    of_child: bool = False
    ready: float | None = None
    ended: float | None = None
    samples: list[tuple[float, int, int]] = attrs.field(factory=list)
    """Measurements of the process: (time, VmRSS in KiB, number of open file descriptors)."""
    onnx_runtime_from: float | None = None
    """Time of the first measurement at which the process had loaded ONNX Runtime."""


@attrs.define(eq=False)
class Server:
    """A server that starts a new process whenever its process ends."""

    name: str
    make: Callable[[int], ProcessUnderTest]
    """Function that starts a process. Its argument is a number, which becomes part of the log file's name."""
    is_ready: Callable[[ProcessUnderTest], bool]
    ledger: Ledger
    disk_is_full: threading.Event
    pauses: random.Random
    lives: list[Life] = attrs.field(factory=list)
    process: ProcessUnderTest | None = None
    kills: int = 0
    exits_on_full_disk: int = 0
    _stopping: threading.Event = attrs.field(factory=threading.Event)
    _thread: threading.Thread | None = None
    _killed: bool = False
    _orphans: list[int] = attrs.field(factory=list)

    def start(self) -> None:
        self._thread = threading.Thread(target=self._keep, name=self.name, daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether the server's current process is ready to answer."""
        life = self.lives[-1] if self.lives else None
        return life is not None and life.ready is not None and life.ended is None

    def kill(self) -> bool:
        """Send SIGKILL to the server's main process. Return False if the process was not running."""
        process = self.process
        if process is None or process.process.poll() is not None or self._stopping.is_set():
            return False
        self._killed = True
        self.kills += 1
        self._orphans = below(process.process.pid, process_table()[0])
        process.process.kill()
        return True

    def down(self) -> list[tuple[float, float]]:
        """Return the periods in which the server had no process that was ready."""
        intervals, since = [], 0.0
        for life in self.lives:
            if life.ready is not None:
                intervals.append((since, life.ready))
                since = float("inf") if life.ended is None else life.ended
        if since != float("inf"):
            intervals.append((since, float("inf")))
        return intervals

    def stop(self) -> None:
        """Send SIGTERM to the server's process.

        A fault is recorded if the process does not end within `STOP_TIMEOUT_SECONDS`, or if its exit code is not 0.
        If the process was not ready yet, the exit code -15 (killed by SIGTERM) is not a fault.
        """
        self._stopping.set()
        assert self._thread is not None
        process = self.process
        if process is not None and process.process.poll() is None:
            process.process.send_signal(signal.SIGTERM)
        self._thread.join(2 * STOP_TIMEOUT_SECONDS)

    def _keep(self) -> None:
        number = 0
        while not self._stopping.is_set():
            self._killed = False
            process = self.process = self.make(number)
            life = Life(self.name, process.process.pid, time.monotonic())
            self.lives.append(life)
            self._watch(process, life)
            life.ended = time.monotonic()
            if not self._stopping.is_set():
                self._judge_end(process)
                time.sleep(self.pauses.uniform(*RESTART_PAUSE_SECONDS))
            number += 1

    def _watch(self, process: ProcessUnderTest, life: Life) -> None:
        """Wait until the process has ended. Record in `life` when the process became ready."""
        child = process.process
        deadline = life.started + START_TIMEOUT_SECONDS
        while child.poll() is None and not self._stopping.is_set():
            if life.ready is None:
                if self.is_ready(process):
                    life.ready = time.monotonic()
                elif time.monotonic() > deadline:
                    self.ledger.fault("failed starts", f"{self.name} was not ready: {process.log[-500:]}")
                    child.kill()
            time.sleep(_POLL_SECONDS)
        if self._stopping.is_set():
            deadline = time.monotonic() + STOP_TIMEOUT_SECONDS
            while child.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            if child.poll() is None:
                self.ledger.fault("processes that SIGTERM did not end", self.name)
                child.kill()
                child.wait()
            elif child.returncode not in (0, -signal.SIGTERM) or (child.returncode and life.ready):
                self.ledger.fault("wrong exit codes", f"{self.name}: {child.returncode} after SIGTERM")

    def _judge_end(self, process: ProcessUnderTest) -> None:
        if self._killed:
            deadline = time.monotonic() + ORPHAN_SECONDS
            while (orphans := _running(self._orphans)) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            if orphans:
                self.ledger.fault("processes that outlived their killed server", f"{self.name}: {len(orphans)}")
            return
        if self.disk_is_full.is_set():
            self.exits_on_full_disk += 1
        else:
            code = process.process.returncode
            self.ledger.fault("exits without a reason", f"{self.name}: exit code {code}: {process.log[-300:]}")


class Sampler:
    """A thread that measures memory and open files of all servers' processes each second, and looks for zombies."""

    def __init__(self, servers: Iterable[Server]) -> None:
        self._servers = list(servers)
        self._children: dict[int, Life] = {}
        self._zombies: dict[int, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.lasting_zombies: set[int] = set()
        """Ids of processes that were zombies in `LASTING_SAMPLES` consecutive samples."""

    LASTING_SAMPLES = 5

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def child_lives(self) -> list[Life]:
        return list(self._children.values())

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self._sample()

    def _sample(self) -> None:
        now = time.monotonic()
        parents, zombies = process_table()
        descendants: dict[int, Server] = {}
        for server in self._servers:
            life = server.lives[-1] if server.lives else None
            if life is None or life.ended is not None:
                continue
            if life.ready is not None:
                _measure(life, now)
            for pid in below(life.pid, parents):
                descendants[pid] = server
                if pid not in self._children and pid not in zombies:
                    self._children[pid] = Life(server.name, pid, now, of_child=True, ready=now)
        for pid, life in self._children.items():
            if life.ended is None and (pid not in descendants or not _measure(life, now)):
                life.ended = now
        seen = {pid: self._zombies.get(pid, 0) + 1 for pid in zombies if pid in descendants}
        self._zombies = seen
        self.lasting_zombies |= {pid for pid, times in seen.items() if times >= self.LASTING_SAMPLES}


def _measure(life: Life, now: float) -> bool:
    """Measure a process, and add the result to its samples; return False if the process has ended."""
    try:
        status = Path(f"/proc/{life.pid}/status").read_text()
        descriptors = len(os.listdir(f"/proc/{life.pid}/fd"))
        if life.onnx_runtime_from is None and "onnxruntime" in Path(f"/proc/{life.pid}/maps").read_text():
            life.onnx_runtime_from = now
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("VmRSS:"):
            life.samples.append((now, int(line.split()[1]), descriptors))
            return True
    return False  # the process is a zombie, which has no memory


def process_table() -> tuple[dict[int, int], set[int]]:
    """Return the parent's id of every process on this machine, by process id, and the ids of all zombies."""
    parents, zombies = {}, set()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            state, parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        parents[int(name)] = int(parent)
        if state == "Z":
            zombies.add(int(name))
    return parents, zombies


def _running(pids: Iterable[int]) -> list[int]:
    parents, zombies = process_table()
    return [pid for pid in pids if pid in parents and pid not in zombies]


def below(root: int, parents: dict[int, int]) -> list[int]:
    """Return the ids of all descendants of the process `root`: its children, their children, and so on."""
    found, level = [], {root}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found += sorted(level)
    return found


def marked(mark: str) -> list[int]:
    """Return the ids of all processes that have the mark of this run in their environment, except this process."""
    wanted = f"{MARK}={mark}".encode()
    pids = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and int(name) != os.getpid():
            try:
                if wanted in Path(f"/proc/{name}/environ").read_bytes().split(b"\0"):
                    pids.append(int(name))
            except OSError:
                continue
    return pids
