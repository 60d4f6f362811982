"""Build `deploy/Containerfile` without a container engine, and run its servers with a read-only file system.

If buildah is installed, a test builds the image with buildah, too.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.containerfile import Builder, Image, parse, python_tree
from support.paths import ROOT
from support.process import wait_for
from support.server_process import free_port

from kepler_core import __version__

CONTAINERFILE = ROOT / "deploy" / "Containerfile"
CONSTRAINTS = ROOT / "deploy" / "constraints.txt"
TARGET = os.environ.get("KEPLER_IMAGE_TARGET", "server")
"""The tests build this target of the Containerfile. Another target, `train`, would take several minutes."""
MAX_MEGABYTES = {"server": 150, "train": 800}
"""Maximum size of the files that each build target adds to the Python image, in MB."""
START_SECONDS = 300.0
"""Seconds that a test waits for a program of the image. The time is long, because programs are read from disk."""
PROGRAMS = ("sh", "env", "install", "chroot")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="chroots need root and unshare"),
]


def pinned() -> dict[str, str]:
    lines = [line.partition("#")[0].strip() for line in CONSTRAINTS.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a base image, made from the Python installation of the tests."""
    folder = tmp_path_factory.mktemp("base")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this process may not create mount namespaces")
    probe = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder / "probe")]
    done = subprocess.run([*probe, f"attrs=={pinned()['attrs']}"], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    python_tree(folder / "tree", Path(sys.base_prefix), PROGRAMS)
    return folder / "tree"


@pytest.fixture(scope="module")
def image(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Image:
    work = tmp_path_factory.mktemp("stages")
    return Builder(parse(CONTAINERFILE.read_text()), ROOT, base, work).build(TARGET)


@pytest.fixture
def volume() -> Iterator[Path]:
    """A folder to mount at /mnt, to which the image's user may write."""
    with tempfile.TemporaryDirectory() as name:
        os.chown(name, 10001, 10001)
        yield Path(name)


def megabytes(folder: Path) -> float:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()) / 1e6


def installed(root: Path) -> dict[str, str]:
    (packages,) = (root / "opt" / "kepler-core" / "lib").glob("python3*/site-packages")
    metadata = [email.message_from_bytes(path.read_bytes()) for path in packages.glob("*.dist-info/METADATA")]
    return {normal(str(one["Name"])): str(one["Version"]) for one in metadata}


def test_the_image_is_small(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    size = megabytes(image.root / "opt" / "kepler-core")
    with capsys.disabled():
        print(f"\nimage {TARGET}: {size:.0f} MB beyond Python")
    assert size <= MAX_MEGABYTES[TARGET]


def test_all_packages_have_pinned_versions(image: Image) -> None:
    versions = installed(image.root)
    assert versions.pop("kepler-core") == __version__
    known = {normal(name): version for name, version in pinned().items()}
    assert versions == {name: known.get(name) for name in versions}
    assert "pip" not in versions


def test_compiled_modules_do_not_depend_on_times(image: Image) -> None:
    compiled = list((image.root / "opt" / "kepler-core" / "lib").rglob("*.pyc"))
    assert len(compiled) > 300
    flags = {path.read_bytes()[4:8] for path in compiled}
    # By PEP 552, these flags mean: the file has a hash of its source instead of a time, and Python ignores the hash.
    assert flags == {b"\x01\x00\x00\x00"}


def test_settings_of_the_image(image: Image) -> None:
    assert image.user == "10001:10001"
    assert image.labels["org.opencontainers.image.version"] == __version__
    assert image.command == ["kepler-model", "serve", "model-server"]
    assert image.health == ["kepler-model", "health"]
    assert image.ports == [8100, 8102, 8103, 8104]
    assert (image.root / "mnt").stat().st_uid == 10001


def check_health(image: Image, volume: Path, environ: dict[str, str]) -> tuple[int, str]:
    """Run the HEALTHCHECK of the image while a server runs. Return the exit code and the output of the check."""
    log = volume / "health.log"
    process = image.start(image.health, volume, log, environ)
    return process.wait(START_SECONDS), log.read_text()


def run(image: Image, volume: Path, command: Sequence[str], environ: dict[str, str]) -> None:
    """Run a server, check that the HEALTHCHECK fails before the start and succeeds after it, and stop the server."""
    code, text = check_health(image, volume, environ)
    assert (code, "no server listens" in text) == (1, True), text
    process = image.start(command, volume, volume / "server.log", environ)
    try:
        wait_for(
            lambda: process.poll() is not None or check_health(image, volume, environ)[0] == 0,
            f"the server {command} is not healthy",
            START_SECONDS,
        )
        assert process.poll() is None, (volume / "server.log").read_text()
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^Uid:\t10001\t10001\t", status, re.MULTILINE), status
        code, text = check_health(image, volume, environ)
        print(text)
        assert code == 0, text
    finally:
        process.terminate()
        assert process.wait(START_SECONDS) == 0, (volume / "server.log").read_text()
    log = (volume / "server.log").read_text()
    assert "Traceback" not in log, log


@pytest.fixture
def environ() -> dict[str, str]:
    """Return settings with free ports. Servers need them because a chroot has the network of this machine."""
    ports = {key: str(free_port()) for key in ("MODEL_SERVER_PORT", "OFFLINE_TRAINER_PORT", "ONLINE_TRAINER_PORT")}
    return {**ports, "METER_METRICS_PORT": str(free_port()), "ESTIMATOR_SOCKET": "/mnt/e.sock"}


SERVERS = {
    "server": [None, "estimator", "kepler-model serve meter --tree /mnt/tree"],
    "train": ["offline-trainer", "online-trainer --server http://127.0.0.1:9"],
}


@pytest.mark.parametrize("command", SERVERS[TARGET])
def test_servers_run_with_a_read_only_file_system(
    image: Image, volume: Path, environ: dict[str, str], command: str | None
) -> None:
    run(image, volume, image.command if command is None else command.split(), environ)


def test_the_root_is_read_only_and_trainings_run_or_name_the_missing_extra(image: Image, volume: Path) -> None:
    script = "open('/opt/kepler-core/x', 'w')"
    process = image.start(["python", "-c", script], volume, volume / "log", {})
    assert process.wait(START_SECONDS) == 1
    assert "Read-only file system" in (volume / "log").read_text()
    code, text = {"server": (1, "pip install"), "train": (0, "models are in /mnt/store")}[TARGET]
    process = image.start(["kepler-model", "quickstart", "--store", "/mnt/store"], volume, volume / "log", {})
    assert process.wait(START_SECONDS) == code
    assert text in (volume / "log").read_text()


def buildah(storage: Path, *words: str | Path) -> str:
    command = ["buildah", "--storage-driver", "vfs", "--root", storage / "root", "--runroot", storage / "run"]
    done = subprocess.run([*map(str, command), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("buildah") is None, reason="buildah is not installed (apt-get install buildah)")
def test_buildah_builds_the_same_image(base: Path, image: Image, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    container = buildah(storage, "from", "scratch")
    buildah(storage, "add", "-q", container, base, "/")
    buildah(storage, "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", container)
    buildah(storage, "commit", "-q", container, "localhost/python-tree")
    started = time.monotonic()
    arguments = ["--build-arg", "PYTHON_IMAGE=localhost/python-tree", "--file", CONTAINERFILE, "--target", TARGET]
    options = ["--isolation", "chroot", "--format", "docker", "--pull-never", "--tag", "kepler-core"]
    buildah(storage, "bud", *options, *arguments, ROOT)
    config = json.loads(buildah(storage, "inspect", "--type", "image", "kepler-core"))["Docker"]["config"]
    assert config["User"] == image.user
    assert config["Cmd"] == image.command
    assert config["Healthcheck"]["Test"] == ["CMD", *image.health]
    assert {key: value for key, value in config["Labels"].items() if key in image.labels} == image.labels
    assert dict(text.split("=", 1) for text in config["Env"])["PATH"] == image.environ["PATH"]
    root = Path(buildah(storage, "mount", buildah(storage, "from", "--pull-never", "kepler-core")))
    assert installed(root) == installed(image.root)
    assert megabytes(root / "opt") == pytest.approx(megabytes(image.root / "opt"), rel=0.01)
    print(f"buildah: {time.monotonic() - started:.0f} s")
