"""Runs programs as in containers of existing deployments: with a volume, a ConfigMap and no other settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.paths import ROOT
from support.process import ProcessUnderTest

_START = """
mount --bind "$CONTAINER/mnt" /mnt
mount --bind "$CONTAINER/etc" /etc
mount --bind "$CONTAINER/tmp" /tmp
unset CONFIG_PATH MNT_PATH CONTAINER
cd /
exec "$@"
"""


def need_mount_namespaces() -> None:
    """Skip the test if this process may not mount folders, or if a mount would hide the programs under test."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("mount namespaces need root and the program unshare")
    if subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this process may not create mount namespaces")
    if any(Path(path).is_relative_to("/tmp") for path in (ROOT, sys.executable)):
        pytest.skip("the checkout or the Python environment is below /tmp")
    if not Path(sys.executable).with_name("model-server").exists():
        pytest.skip("the programs of the servers are missing: install the package again")


class Containers:
    """Containers that share a volume at /mnt, a ConfigMap at /etc/kepler/kepler.config, and a folder at /tmp."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.volume = folder / "mnt"
        self.tmp = folder / "tmp"
        self.config = folder / "etc" / "kepler" / "kepler.config"
        shutil.copytree("/etc", folder / "etc", symlinks=True, ignore=shutil.ignore_patterns("kepler"))
        for path in (self.volume, self.tmp, self.config):
            path.mkdir(parents=True)

    def set(self, config_map: Mapping[str, str]) -> None:
        """Write the keys and values of the ConfigMap."""
        for key, value in config_map.items():
            (self.config / key).write_text(value)

    @contextmanager
    def running(self, *command: str, environ: Mapping[str, str] | None = None) -> Iterator[ProcessUnderTest]:
        """Run a program with its arguments. At the end, stop it, and check its log and exit code."""
        name, *arguments = command
        program = ("unshare", "-m", "sh", "-e", "-c", _START, "sh", Path(sys.executable).with_name(name))
        environ = {**(environ or {}), "CONTAINER": str(self.folder)}
        process = ProcessUnderTest(arguments, self.folder / f"{name}.log", environ, program=program)
        try:
            yield process
        finally:
            code = process.stop()
        process.check_log()
        assert code == 0, process.log


@contextmanager
def containers() -> Iterator[Containers]:
    """Make the folders of containers, and remove them at the end. Their path is short enough for unix sockets."""
    need_mount_namespaces()
    with tempfile.TemporaryDirectory(prefix="kepler-", ignore_cleanup_errors=True) as folder:
        yield Containers(Path(folder))
