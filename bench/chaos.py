"""Run all servers over one store with good clients, hostile clients, kills and full disks.

The run needs the extra `[train]` and pytest. It also needs Debian's package prometheus; without this package, the run
has no online trainer. The run starts these real processes: the model server, the offline trainer, the online trainer
with a Prometheus server, the estimator, the hostile clients, and a publisher, which publishes versions of a pipeline.

- Good clients know the right answers and check each answer: watts from the estimator, models from the model server,
  jobs of the offline trainer, the health of the online trainer.
- Hostile clients half-close connections, stop reading or writing, send random bytes and huge headers, and leave
  connections idle.
- Malformed pipelines are imported into the store with `store import`, or copied into it as files.
- The publisher and the training processes are killed at random times during the whole run. Servers are killed only in
  the first 60 % of the run, so that their last processes live long enough to show whether memory grows.
- The disk of the store and of the servers' states is full from time to time.

At the end, all versions and jobs that a server or the publisher has acknowledged must exist. The exit code is 1 if an
answer was wrong, if an acknowledged version or job is missing, or if the report lists any other fault.

    python bench/chaos.py --minutes 10 [--seed N] [--folder FOLDER] [--no-mount] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_PATHS = (str(HERE.parent / "tests"), str(HERE))
sys.path[:0] = _PATHS

from chaos_run import good_clients, jobs, processes, report, servers, stored  # noqa: E402
from chaos_run.disk import Disk, mounted_disk  # noqa: E402
from chaos_run.hostile_files import Vandal  # noqa: E402
from chaos_run.ledger import Ledger  # noqa: E402
from chaos_run.publisher import PIPELINE  # noqa: E402

KILLS_UNTIL = 0.6
"""Fraction of the run's time after which no server is killed any more."""
KILLS_PER_SECOND_OF_SERVERS = 1 / 20
"""Number of kills per second, over all servers."""
MIN_FULL_DISKS = 1
KILLS_IN_A_ROW, ROW_SECONDS = 3, 5.0
"""Number of successive kills of the offline trainer, and the seconds between two of these kills.

A job must survive any number of kills of the offline trainer.
"""
FULL_DISK_EVERY_SECONDS = 60.0
FULL_DISK_SECONDS = (2.0, 6.0)
KILL_A_TRAINING_EVERY_SECONDS = 15.0
TRAINING_CLIENTS = 2
CURRENT_SECONDS = 30.0
"""Time in seconds, after the last attack and kill, within which the servers must serve the current version."""
SETTLE_SECONDS = 8.0
"""Seconds from the end of the hostile clients to the last measurement of open file descriptors.

The servers in `kepler_servers.http.side_port` need up to 5 s to close connections.
"""


class Run:
    """One chaos run: a test that attacks and kills running servers, and checks their answers."""

    def __init__(self, folder: Path, disk: Disk, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.seed = seed
        self.disk = disk
        self.ledger = Ledger()
        self.places = servers.Places(disk.folder, folder)
        self.choices = random.Random(seed)
        self.stored = stored.StoredFiles(self.places, self.ledger)
        self.servers: list[processes.Server] = []
        self.publications = good_clients.Publications(self.places, self.ledger, random.Random(f"{seed} publisher"))
        self.clients = good_clients.GoodClients(self.places, self.ledger, self.publications, seed)
        self.trainings = [jobs.TrainingClient(self.places, self.ledger, n) for n in range(TRAINING_CLIENTS)]
        self.vandal = Vandal(self.places, self.ledger, random.Random(f"{seed} files"), disk.full)
        self.hostile: dict[str, Any] = {"connections": {}, "not_connected": 0}
        self.killed_trainings: set[str] = set()
        """Ids of the jobs whose training process may have been killed."""
        self.full_disks = 0
        self.training_kills = 0
        self.started = self.hostility_ended = 0.0

    # --- the phases of the run ---

    def start_servers(self, prometheus: str | None) -> None:
        """Start the publisher and the servers, and wait until all are ready."""
        self.publications.start()
        if not self.publications.first.wait(processes.START_TIMEOUT_SECONDS):
            raise SystemExit("no version was published")
        for name, make in servers.starters(self.places, prometheus).items():
            pauses = random.Random(f"{self.seed} {name}")
            ready = servers.readiness(name, self.places)
            self.servers.append(processes.Server(name, make, ready, self.ledger, self.disk.full, pauses))
        for server in self.servers:
            server.start()
        deadline = time.monotonic() + 2 * processes.START_TIMEOUT_SECONDS
        while not all(server.ready for server in self.servers):
            if time.monotonic() > deadline:
                raise SystemExit(f"not ready: {[server.name for server in self.servers if not server.ready]}")
            time.sleep(0.1)

    def disturb(self) -> None:
        """Run the good and the hostile clients for the time of the run. Meanwhile, kill processes and fill the disk."""
        self.started = time.monotonic()
        for server in self.servers:
            self.ledger.expect(server.name)
        self.clients.start(any(server.name == servers.ONLINE_TRAINER for server in self.servers))
        for training in self.trainings:
            training.start()
        self.vandal.start()
        with self._hostile_clients():
            for at, action in sorted(self._plan(), key=lambda step: step[0]):
                self._sleep_until(self.started + at)
                action()
            self._sleep_until(self.started + self.seconds)
        self.vandal.stop()
        self.publications.stop()
        self.hostility_ended = time.monotonic()
        self.ledger.end_gaps()

    def settle(self) -> None:
        """Wait until all submitted jobs have ended, and check that the servers serve the current version."""
        for training in self.trainings:
            training.stop_submitting()
        self._check_current()
        for training in self.trainings:
            training.join()
        self.clients.stop()
        self._sleep_until(self.hostility_ended + SETTLE_SECONDS)

    def check(self, sampler: processes.Sampler, mark: str) -> dict[str, Any]:
        """Stop the servers, check what they have stored, and return the result of the run."""
        sampler.stop()
        silences = report.silences(self.servers, self.ledger)
        for server in self.servers:
            server.stop()
        left = processes.marked(mark)
        for pid in left:
            self.ledger.fault("processes left over", f"{_command(pid)}")
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in sampler.lasting_zombies:
            self.ledger.fault("zombie processes", str(pid))
        self.stored.note()
        stored.check_logs(self.places.folder / "logs", self.ledger)
        report.check_statuses(self.ledger, self.disk.mounted)
        acknowledged = [job for training in self.trainings for job in training.jobs]
        zeros = {
            "acknowledged versions lost": self.stored.lost_versions(self.publications.versions),
            "acknowledged jobs lost": jobs.lost_jobs(acknowledged, self.stored.store, self.ledger),
            "stored samples lost": self.stored.lost_samples,
        }
        rows = report.life_rows(self.servers, sampler, self.ledger, self.started, self.hostility_ended)
        return {
            "seed": self.seed,
            "minutes": self.seconds / 60,
            "disk": self.disk.how,
            "zeros": {"wrong answers": self.ledger.fault_kinds["wrong answers"], **zeros},
            "counts": {
                "acknowledged jobs": len(acknowledged),
                "zombie processes": len(sampler.lasting_zombies),
                **self._counts(),
            },
            "requests": [[*key, number] for key, number in sorted(self.ledger.requests.items())],
            "hostile_connections": self.hostile["connections"],
            "statuses": [[*key, number] for key, number in sorted(self.ledger.statuses.items())],
            "without_answers": silences,
            "processes": rows,
            "flat": report.FLAT,
            "fault_kinds": dict(self.ledger.fault_kinds),
            "faults": self.ledger.faults,
        }

    def _counts(self) -> dict[str, int]:
        return {
            "acknowledged versions": len(self.publications.versions),
            "versions of the online trainer": len(self.stored.live_versions),
            "samples of the online trainer": len(self.stored.samples),
            "kills of the publisher": self.publications.kills,
            "kills of training processes": self.training_kills,
            **{f"kills of the {server.name}": server.kills for server in self.servers},
            "restarts of servers": sum(len(server.lives) - 1 for server in self.servers),
            "exits of servers because of a full disk": sum(s.exits_on_full_disk for s in self.servers),
            "full disks": self.full_disks,
            "hostile connections that were refused": self.hostile["not_connected"],
        }

    # --- disturbances ---

    def _plan(self) -> list[tuple[float, Any]]:
        """Return all planned events. An event is a pair: seconds from the start of the run, and the function to call.

        The functions kill servers or training processes, fill the disk, or free the disk.
        """
        kills = max(len(self.servers), round(self.seconds * KILLS_UNTIL * KILLS_PER_SECOND_OF_SERVERS))
        steps: list[tuple[float, Any]] = []
        for number in range(kills):
            at = self.choices.uniform(0.05, KILLS_UNTIL) * self.seconds
            # Each server has the same number of planned kills. For the offline trainer, a planned kill is several kills
            # in a row.
            server = self.servers[number % len(self.servers)]
            times = KILLS_IN_A_ROW if server.name == servers.OFFLINE_TRAINER else 1
            moments = [at + ROW_SECONDS * again for again in range(times)]
            steps += [(moment, functools.partial(self._kill, server)) for moment in moments if moment < self.seconds]
        trainings = max(1, round(self.seconds / KILL_A_TRAINING_EVERY_SECONDS))
        steps += [(self.choices.uniform(0.1, 1) * self.seconds, self._kill_a_training) for _ in range(trainings)]
        full = max(MIN_FULL_DISKS, round(self.seconds / FULL_DISK_EVERY_SECONDS))
        for number in range(full):
            at = (number + self.choices.uniform(0.2, 0.7)) * self.seconds / full
            for again in range(round(self.choices.uniform(*FULL_DISK_SECONDS))):
                steps.append((at + again, functools.partial(self._fill, not again)))
            steps.append((at + again + 1, self.disk.free))
        return steps

    def _kill(self, server: processes.Server) -> None:
        server.kill()
        self.stored.note()

    def _kill_a_training(self) -> None:
        """Kill the training process of a job that is running.

        At most one training process of each job is killed, because a job fails after three killed attempts.
        """
        running = {t.running.id for t in self.trainings if t.running is not None} - self.killed_trainings
        (trainer,) = (server for server in self.servers if server.name == servers.OFFLINE_TRAINER)
        if not running or not trainer.ready:
            return
        parents, zombies = processes.process_table()
        leaders = [
            pid for pid in processes.below(trainer.lives[-1].pid, parents) if pid not in zombies and _is_leader(pid)
        ]
        if leaders:
            self.killed_trainings |= running
            self.training_kills += 1
            with contextlib.suppress(OSError):
                os.kill(self.choices.choice(leaders), signal.SIGKILL)

    def _fill(self, first: bool) -> None:
        self.full_disks += first
        self.disk.fill()

    @contextlib.contextmanager
    def _hostile_clients(self) -> Iterator[None]:
        addresses = {"ports": self.places.ports(), "socket": str(self.places.socket), "seed": self.seed}
        if not any(server.name == servers.ONLINE_TRAINER for server in self.servers):
            del addresses["ports"][servers.ONLINE_TRAINER]  # type: ignore[attr-defined]
        command = [sys.executable, "-m", "chaos_run.hostile_clients", json.dumps(addresses)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        self.hostile = json.loads(output)
        for server, behaviour, status, number in self.hostile["statuses"]:
            self.ledger.status(server, behaviour, status, number)

    def _sleep_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - time.monotonic()))

    # --- checks ---

    def _check_current(self) -> None:
        """Check that the model server and the estimator serve the store's current version within `CURRENT_SECONDS`."""
        deadline = time.monotonic() + CURRENT_SECONDS
        current = self.stored.store.path(PIPELINE)
        while not good_clients.served_version_is_current(self.places, current):
            if time.monotonic() > deadline:
                self.ledger.fault("wrong answers", f"{current} is not served after {CURRENT_SECONDS:.0f} s")
                return
            time.sleep(0.5)


def _is_leader(pid: int) -> bool:
    try:
        return os.getpgid(pid) == pid
    except OSError:
        return False


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return str(pid)


def chaos(folder: Path, minutes: float, seed: int, mount: bool) -> dict[str, Any]:
    """Carry out a whole chaos run of `minutes` minutes, and return its result."""
    mark = uuid.uuid4().hex
    os.environ[processes.MARK] = mark
    os.environ["PYTHONPATH"] = os.pathsep.join([*_PATHS, *filter(None, [os.environ.get("PYTHONPATH")])])
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(mounted_disk(folder / "disk", lambda: processes.marked(mark), mount))
        with_prometheus = all(shutil.which(program) for program in ("prometheus", "promtool"))
        if not with_prometheus:
            print("the online trainer does not run, because Prometheus is not installed", file=sys.stderr)
        run = Run(folder, disk, 60 * minutes, seed)
        with contextlib.ExitStack() as prometheus:
            url = prometheus.enter_context(servers.replayed_prometheus(folder)) if with_prometheus else None
            run.start_servers(url)
            sampler = processes.Sampler(run.servers)
            sampler.start()
            run.disturb()
            run.settle()
        return run.check(sampler, mark)


def main() -> None:
    """Carry out a chaos run, print its result, and exit with 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="new folder for logs; it is not deleted (default: a temporary folder)"
    )
    parser.add_argument(
        "--no-mount",
        dest="mount",
        action="store_false",
        help="simulate a full disk with RLIMIT_FSIZE instead of a tmpfs",
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        if arguments.folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        else:
            folder = arguments.folder.resolve()
            folder.mkdir(parents=True)
        result = chaos(folder, arguments.minutes, arguments.seed, arguments.mount)
    print(json.dumps(result, indent=1) if arguments.json else report.text(result))
    sys.exit(1 if result["faults"] else 0)


if __name__ == "__main__":
    main()
