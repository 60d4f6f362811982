"""Builds wheels of this project and of other distributions, and makes virtual environments with these wheels.

The virtual environments also see the packages in the tests' environment, so that the project's requirements
need not be installed again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from support.paths import ROOT

EXAMPLES = ROOT / "examples"
TIMEOUT_SECONDS = 60.0
"""Seconds after which a test fails because a step has not ended. Steps usually take far less time."""

_FOLDERS = ("config", "kepler_core", "plugins", "profiler", "servers")
_FILES = ("LICENSE", "README.md", "pyproject.toml", "setup.cfg")
_BUILT = shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".pytest_cache")

# This program builds each wheel in a new process, as pip does, but imports setuptools only once.
_BUILD = """
import json, os, sys
from setuptools import build_meta
for source in json.loads(sys.argv[2]):
    if (child := os.fork()) == 0:
        os.chdir(source)
        build_meta.build_wheel(sys.argv[1])
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{source} cannot be built")
"""


def copy_of_project(folder: Path) -> Path:
    """Copy the sources of the project's wheel to `folder`.

    A build leaves files in the folder of its sources. These files must not get into the checkout.
    """
    folder.mkdir()
    for name in _FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=_BUILT)
    for name in _FILES:
        shutil.copy(ROOT / name, folder / name)
    return folder


def copy_of(source: Path, folder: Path) -> Path:
    """Copy the sources of a distribution, without the files that earlier builds and tests have left."""
    return Path(shutil.copytree(source, folder / source.name, ignore=_BUILT))


def build_wheels(sources: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Build the wheels of distributions from their source folders, and return the wheels by distribution name."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(folder), json.dumps([str(source) for source in sources])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name.partition("-")[0].replace("_", "-"): path for path in folder.glob("*.whl")}


@attrs.frozen
class Site:
    """A fresh virtual environment."""

    python: Path

    def pip(self, *arguments: object) -> None:
        """Run pip for the virtual environment."""
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", self.python]
        done = subprocess.run(list(map(str, [*command, *arguments])), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def install(self, wheels: Sequence[Path]) -> None:
        self.pip("install", "--no-deps", "--no-index", "--force-reinstall", *wheels)

    def run(self, *arguments: object, cwd: Path, check: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the virtual environment's Python, and check that its exit code is `check`."""
        done = subprocess.run(
            [str(self.python), *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            check=False,
            env=environment(),
        )
        assert done.returncode == check, f"{done.returncode}: {done.stdout}{done.stderr}"
        return done

    def kepler(self, *arguments: object, cwd: Path, check: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the virtual environment's `kepler-model`, and check that its exit code is `check`."""
        return self.run("-m", "kepler_core", *arguments, cwd=cwd, check=check)

    @contextmanager
    def serving(self, *arguments: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """Run a server of the virtual environment. At the end, send SIGTERM and check that the exit code is 0."""
        command = [str(self.python), "-m", "kepler_core", "serve", *map(str, arguments)]
        with (
            log.open("wb") as file,
            subprocess.Popen(command, cwd=log.parent, env=environment(), stderr=file) as process,
        ):
            try:
                yield process
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(TIMEOUT_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise
        assert process.returncode == 0, log.read_text()


def make_site(folder: Path, wheels: Sequence[Path]) -> Site:
    """Make a virtual environment with the wheels. It also sees the packages in the tests' environment."""
    venv.create(folder, with_pip=False)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    # The Python environment of the tests may also use packages of another environment.
    packages = dict.fromkeys(path for path in sys.path if Path(path).name == "site-packages")
    # Packages of the new environment take precedence. Editable installations of the tests' environment have no effect
    # in the new environment.
    (site_packages / "zz_dependencies.pth").write_text("".join(f"{path}\n" for path in packages))
    site = Site(folder / "bin" / "python")
    site.install(wheels)
    return site


def environment() -> dict[str, str]:
    """Return this process' environment variables without the variables that change plugins or settings."""
    changing = ("KEPLER_", "MODEL_", "PYTHONPATH")
    return {key: value for key, value in os.environ.items() if not key.startswith(changing)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ask_model_server(port: int, request: Mapping[str, Any], process: subprocess.Popen[bytes]) -> bytes:
    """Wait until a model server listens, send it a request for a model, and return its answer."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    body = json.dumps(request).encode()
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/model", body, timeout=TIMEOUT_SECONDS) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{error.code}: {error.read().decode()}") from error
        except urllib.error.URLError:
            assert process.poll() is None, "the model server has ended"
            assert time.monotonic() < deadline, "the model server does not listen"
            time.sleep(0.05)


def ask_estimator(path: Path, request: Mapping[str, Any], process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait until an estimator has a model for a request, and return the estimator's reply."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        assert process.poll() is None, "the estimator has ended"
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline, "the estimator does not listen"
                time.sleep(0.05)
                continue
            client.sendall(json.dumps(request).encode())
            reply = json.loads(b"".join(iter(lambda: client.recv(4096), b"")))
        if not reply["msg"] or time.monotonic() > deadline:
            document: dict[str, Any] = reply
            return document
        time.sleep(0.05)
