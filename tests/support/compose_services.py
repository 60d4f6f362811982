"""Runs services of a compose file as processes, with the command lines, users, volumes and names from the file.

Each service runs in an overlay of this machine's files, in which the service's volumes are mounted. All services share
one new network namespace, in which the services' names are names of the loopback address.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.paths import ROOT
from support.process import PATIENCE, wait_for

_NETWORK = 'ip link set lo up && mount --bind "$1" /etc/hosts && exec sleep infinity'
_SERVICE = """
set -e
scratch=$1; user=$2; read_only=$3; volumes=$4; temporary=$5; shift 5
mount -t tmpfs tmpfs "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
root=$scratch/root
for folder in $PARENTS; do chmod a+rx "$root$folder"; done
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --bind /etc/hosts "$root/etc/hosts"
for folder in $temporary; do
    mkdir -p "$root$folder"
    mount -t tmpfs -o mode=1777 tmpfs "$root$folder"
done
echo "$volumes" | while IFS='|' read -r source target mode; do
    [ -n "$source" ] || continue
    mkdir -p "$root$target"
    mount --rbind "$source" "$root$target"
    [ "$mode" != ro ] || mount -o remount,ro,bind "$root$target" 2>/dev/null || true
done
[ "$read_only" = no ] || mount -o remount,ro "$root"
exec chroot --userspec="$user" "$root" "$@"
"""
DEFAULT_USER = "10001:10001"
"""User id and group id of the user in images of Kepler Core."""


def need_namespaces() -> None:
    """Skip the test if this process may not create the namespaces and overlays of services."""
    if os.geteuid() != 0 or any(shutil.which(name) is None for name in ("unshare", "nsenter", "ip")):
        pytest.skip("namespaces need root and the programs unshare, nsenter and ip")
    script = (
        "mount -t tmpfs tmpfs /mnt && mkdir /mnt/u /mnt/w /mnt/m && "
        "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/m"
    )
    if subprocess.run(["unshare", "-n", "-m", "sh", "-c", script], check=False, capture_output=True).returncode != 0:
        pytest.skip("this process may not create namespaces or overlays")
    if any(part.is_relative_to("/tmp") for part in (Path(sys.executable), Path(sys.base_prefix))):
        pytest.skip("the Python environment is below /tmp, where services have their own folder")


class ComposeServices:
    """The services of a compose file. `start` starts one of them."""

    def __init__(self, file: Path, folder: Path) -> None:
        """Read the compose file `file`, and make the network. `folder` is for the logs and the named volumes."""
        self._file = file
        self._folder = folder
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(file.read_text())["services"]
        hosts = folder / "hosts"
        hosts.write_text("127.0.0.1 localhost " + " ".join(self.services) + "\n")
        self._network = subprocess.Popen(["unshare", "-n", "-m", "sh", "-c", _NETWORK, "sh", hosts])
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # A service that starts before the names are in /etc/hosts would never find the other services.
        wait_for(lambda: self._resolves(next(iter(self.services))), "the network namespace is not ready")

    def _resolves(self, name: str) -> bool:
        """Return whether a service's name is in /etc/hosts of the new namespace."""
        return self.inside(["grep", "-qw", name, "/etc/hosts"]).returncode == 0

    def inside(self, command: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        """Run a program in the network of the services."""
        enter = ["nsenter", "-t", str(self._network.pid), "-n", "-m", "--"]
        return subprocess.run([*enter, *map(str, command)], capture_output=True, text=True, check=False)

    def start(self, name: str, program: Sequence[str] = (), *, user: str = DEFAULT_USER) -> None:
        """Start a service. `program` is put before the command, like the ENTRYPOINT of an image."""
        service = self.services[name]
        volumes = "\n".join(self._volume(text) for text in service.get("volumes", []))
        scratch = self._folder / f"{name}.root"
        scratch.mkdir()
        settings = {"HOME": "/tmp", "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin:/usr/sbin"}
        # conftest.py sets these variables, so that trainings need less CPU time
        settings |= {key: os.environ[key] for key in ("KEPLER_REPORT", "LOKY_MAX_CPU_COUNT", "OMP_NUM_THREADS")}
        settings |= {**service.get("environment", {})}
        command = [
            "nsenter", "-t", str(self._network.pid), "-n", "-m", "--",
            "unshare", "-m", "sh", "-c", _SERVICE, "sh",
            str(scratch), str(service.get("user", user)), "yes" if service.get("read_only") else "no", volumes,
            " ".join(service.get("tmpfs", [])),
            "/usr/bin/env", "-i", "-C", "/", *(f"{key}={value}" for key, value in settings.items()),
            *program, *service["command"],
        ]  # fmt: skip
        # `PARENTS` are folders that become readable for the users of services, because Python may be installed below
        # /root. The change affects only the overlay, not the real folders.
        parents = {str(parent) for path in (sys.base_prefix, sys.prefix, ROOT) for parent in Path(path).parents}
        environ = {**os.environ, "PARENTS": " ".join(sorted(parents))}
        with self.log_path(name).open("wb") as log:
            self._running[name] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environ)

    def _volume(self, text: str) -> str:
        """Return source, target and mode of a volume, separated by bars. The source of a named volume is a folder."""
        source, target, *mode = text.split(":")
        path = Path(source)
        if source.startswith("."):
            path = (self._file.parent / source).resolve()
        elif not source.startswith("/"):
            path = self._folder / "volumes" / source
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o777)
        return "|".join((str(path), target, *mode))

    def log_path(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def log(self, name: str) -> str:
        return self.log_path(name).read_text(errors="replace")

    def healthy(self, name: str) -> bool:
        """Run the health check of a running service in the services' network. Fail if the service has ended."""
        process = self._running[name]
        assert process.poll() is None, f"{name}: {self.log(name)}"
        test: list[str] = self.services[name]["healthcheck"]["test"]
        assert test[0] == "CMD"
        # The service has its own /tmp with the estimator's socket. The check sees it as a folder below /proc.
        socket = {"ESTIMATOR_SOCKET": f"/proc/{process.pid}/root/tmp/estimator.sock"}
        environ = [f"{key}={value}" for key, value in {**os.environ, **socket, **self._ports(name)}.items()]
        program = Path(sys.executable).with_name(test[1])
        return self.inside(["/usr/bin/env", "-i", *environ, program, *test[2:]]).returncode == 0

    @property
    def program(self) -> list[str]:
        """The command `kepler-model` of the Python environment of the tests, as a list of words."""
        return [str(Path(sys.executable).with_name("kepler-model"))]

    def pid(self, name: str) -> int:
        """Return the process ID of a running service."""
        return self._running[name].pid

    @staticmethod
    def _ports(name: str) -> Mapping[str, str]:
        """Return settings with which the health check of a service sees only this service, as in a container."""
        keys = {
            "model-server": "MODEL_SERVER_PORT", "offline-trainer": "OFFLINE_TRAINER_PORT",
            "online-trainer": "ONLINE_TRAINER_PORT", "meter": "METER_METRICS_PORT",
        }  # fmt: skip
        return {key: "1" for server, key in keys.items() if server != name}

    def wait(self, name: str, seconds: float) -> int:
        """Wait until a service ends, and return its exit code."""
        return self._running[name].wait(seconds)

    def stop(self) -> dict[str, int]:
        """Stop all services, and return their exit codes."""
        codes = {}
        for name, process in self._running.items():
            process.terminate()
            try:
                codes[name] = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        self._network.kill()
        self._network.wait()
        return codes
