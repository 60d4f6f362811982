"""Run the commands of documentation pages in bash, with real programs.

Free ports and another socket replace the ports and the socket in pages, so that pages can run beside other programs.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from support.doc_blocks import Command, read_blocks, setup_commands
from support.doc_output import first_difference
from support.paths import SHARED
from support.server_process import free_port

SOCKET = "/tmp/estimator.sock"
PORTS = {8100: "MODEL_SERVER_PORT", 8102: "OFFLINE_TRAINER_PORT", 8103: "ONLINE_TRAINER_PORT"}
"""For each server port in the documentation: the configuration key that sets another port in tests."""
OTHER_PORTS = (8104, 8105, 8106, 9090, 9101, 28282)
"""More ports in the documentation. They are always part of the commands, so tests need no configuration key."""
SERVER_PORTS = {"model-server": 8100, "offline-trainer": 8102, "online-trainer": 8103}
COMMAND_SECONDS = 1800.0
"""Number of seconds after which a command counts as hanging. A training can take minutes on a busy machine."""


@attrs.frozen
class Failure:
    """A command whose output or exit code differs from the documentation page."""

    command: Command
    problem: str
    printed: str

    def __str__(self) -> str:
        return f"line {self.command.line}: $ {self.command.text}\n{self.problem}\nprinted:\n{self.printed}"


class Shell:
    """A bash process in the working folder of a page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = {port: free_port() for port in (*PORTS, *OTHER_PORTS)}
        self.socket = str(folder / "e.sock")
        self.logs: list[Path] = []
        (folder / "home").mkdir(exist_ok=True)
        (folder / "home" / ".curlrc").write_text("silent\nshow-error\n")
        self.process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
            env=self._environment(),
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key in ("LANG", "TZ", "TMPDIR", "PIP_INDEX_URL")}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.folder / "home"),
            "CONFIG_PATH": str(self.folder / "home" / "no-configuration"),
            "MNT_PATH": str(self.folder / "home" / "no-volume"),
            "ESTIMATOR_SOCKET": self.socket,
            "KEPLER_REPORT": "false",
            "LC_ALL": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "LOKY_MAX_CPU_COUNT": "1",  # a training starts no worker processes
            **{key: str(self.ports[port]) for port, key in PORTS.items()},
        }

    def real(self, text: str) -> str:
        """Replace the ports and the socket of the documentation by those that this shell uses."""
        for port, used in self.ports.items():
            text = re.sub(rf"(?<=[:= ]){port}\b", str(used), text)
        return text.replace(SOCKET, self.socket)

    def documented(self, text: str) -> str:
        """Replace the ports and the socket that this shell uses by those of the documentation."""
        for port, used in self.ports.items():
            text = re.sub(rf"\b{used}\b", str(port), text)
        return text.replace(self.socket, SOCKET)

    def write(self, name: str, text: str) -> None:
        """Write the content of a block to a file."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.real(text), encoding="utf-8")

    def link(self, name: str) -> None:
        """Link a folder of ../shared/data into the working folder, unless the link exists."""
        link = self.folder / name
        if not link.exists():
            link.symlink_to(SHARED / "data" / name)

    def run(self, command: Command) -> Failure | None:
        """Run a command, and compare its exit code and output with the page."""
        if command.background:
            return self._start(command)
        code, printed = self._call(self.real(command.text))
        printed = self.documented(printed)
        if command.exit_code == -1:
            if code == 0:
                return Failure(command, "exit code 0 of a command that the page shows with an error", printed)
        elif code != command.exit_code:
            return Failure(command, f"exit code {code}", printed)
        if command.shown and (difference := first_difference(command.shown, printed.splitlines())):
            return Failure(command, difference, printed)
        return None

    def _call(self, text: str, output: str = "") -> tuple[int, str]:
        mark = uuid.uuid4().hex
        assert self.process.stdin is not None
        script = f"{{ {text}\n}} </dev/null {output} 2>&1\nprintf '\\n%s %s\\n' {mark} $?\n"
        self.process.stdin.write(script.encode())
        self.process.stdin.flush()
        lines: list[str] = []
        watchdog = threading.Timer(COMMAND_SECONDS, os.killpg, (self.process.pid, signal.SIGKILL))
        watchdog.daemon = True
        watchdog.start()
        try:
            return self._read_output(mark, lines)
        except EOFError:
            raise AssertionError(f"bash ended, or the command hangs: {text}\n" + "\n".join(lines)) from None
        finally:
            watchdog.cancel()

    def _read_output(self, mark: str, lines: list[str]) -> tuple[int, str]:
        """Read the output of a command up to the line with `mark`, and return its exit code and the output."""
        assert self.process.stdout is not None
        for raw in iter(self.process.stdout.readline, b""):
            line = raw.decode(errors="replace").rstrip("\n")
            if line.startswith(mark):
                return int(line.split()[1]), "\n".join(lines)
            lines.append(line)
        raise EOFError

    def _start(self, command: Command) -> Failure | None:
        """Start a program in the background. Wait until it listens and its log contains the output in the page."""
        log = self.folder / "home" / f"{len(self.logs)}.log"
        self.logs.append(log)
        text = self.real(command.text)
        self._call(text, f"> {log}")
        end = time.monotonic() + COMMAND_SECONDS
        while time.monotonic() < end:
            printed = self.documented(log.read_text(errors="replace"))
            difference = first_difference(command.shown, printed.splitlines()) if command.shown else None
            if difference is None and self._listens(text):
                return None
            if self._call("jobs -r %% >/dev/null")[0] != 0:
                return Failure(command, "the program has ended", printed)
            time.sleep(0.1)
        return Failure(command, difference or "the program does not listen", printed)

    def _listens(self, text: str) -> bool:
        """Return whether the server that a command starts accepts connections."""
        named = [used for used in self.ports.values() if re.search(rf"(port[= ]|address=\S*:){used}\b", text)]
        default = [self.ports[port] for name, port in SERVER_PORTS.items() if re.search(rf"\b{name}\b", text)]
        for port in named or default:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) != 0:
                    return False
        return "estimator" not in text or Path(self.socket).exists()

    def close(self) -> None:
        """End bash and all programs that it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(self.process.pid, number)
                self.process.wait(5)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """Run bash in a folder."""
    session = Shell(folder)
    try:
        yield session
    finally:
        session.close()


class Setups:
    """Working folders that set-up commands of pages have prepared. Pages with equal first commands share a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prepared: dict[tuple[str, ...], Path] = {}

    def copy(self, commands: Sequence[Command], target: Path) -> None:
        """Run the commands of a page in a new folder, and copy the folder to `target`. Equal commands run only once."""
        target.mkdir(parents=True)
        if commands:
            shutil.copytree(self._prepare(commands), target, symlinks=True, dirs_exist_ok=True)

    def _prepare(self, commands: Sequence[Command]) -> Path:
        key = tuple(command.text for command in commands)
        if key not in self.prepared:
            folder = self.folder / str(len(self.prepared))
            self.prepared[key] = folder
            self.copy(commands[:-1], folder)
            with shell(folder) as session:
                failure = session.run(commands[-1])
            assert failure is None, str(failure)
        return self.prepared[key]


def run_page(text: str, folder: Path, setups: Setups) -> tuple[list[Failure], Mapping[str, int]]:
    """Run all blocks of a page in a new folder.

    Returns the failures, and the numbers of commands, outputs, files and blocks that were not run.
    """
    counts = {"commands": 0, "outputs": 0, "files": 0, "not run": 0}
    failures: list[Failure] = []
    setups.copy(setup_commands(text), folder)
    with shell(folder) as session:
        for block in read_blocks(text):
            counts["not run"] += block.reason is not None
            if block.file is not None:
                session.write(block.file, block.text)
                counts["files"] += 1
            if block.shared_data is not None and block.reason is None:
                session.link(block.shared_data)
            for command in block.commands:
                failure = session.run(command)
                counts["commands"] += 1
                counts["outputs"] += bool(command.shown)
                if failure is not None:
                    failures.append(failure)
    return failures, counts
