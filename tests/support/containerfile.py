"""Builds an image from a Containerfile without a container engine, by running the instructions in chroots.

Each stage is a folder. COPY copies files, and RUN runs a program in a chroot with its own mount namespace. This module
supports only the instructions that `deploy/Containerfile` contains, and raises an error for all others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_SETTING = re.compile(r"""([\w.]+)=("[^"]*"|\S*)""")
BUILD_SECONDS = 1200
_LIBRARIES_OF_WHEELS = (
    "libstdc++.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "librt.so.1", "libm.so.6", "libutil.so.1",
    "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2",
)  # fmt: skip
"""Libraries of the C and C++ runtimes. Extension modules in wheels need these libraries."""

_ISOLATED = """
set -e
root=$1; shift
mount --bind "$root" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
"""
_RUN = _ISOLATED + 'exec chroot "$root" "$@"\n'
_START = (
    _ISOLATED
    + """
user=$1; volume=$2; shift 2
mount --bind "$volume" "$root/mnt"
mount -t tmpfs tmpfs "$root/tmp"
chmod 1777 "$root/tmp"
mount -o remount,ro,bind "$root"
exec chroot --userspec="$user" "$root" "$@"
"""
)


@attrs.define
class Stage:
    """A build stage: its base (an image or an earlier stage) and its instructions."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = attrs.field(factory=list)
    """Pairs: name of the instruction in upper case, and the text after the name."""


@attrs.define
class Image:
    """The result of building a stage of a Containerfile: a folder with its files, and its settings."""

    root: Path
    environ: dict[str, str] = attrs.field(factory=dict)
    labels: dict[str, str] = attrs.field(factory=dict)
    folder: str = "/"
    user: str = "0:0"
    command: list[str] = attrs.field(factory=list)
    health: list[str] = attrs.field(factory=list)
    ports: list[int] = attrs.field(factory=list)

    def start(
        self, command: Sequence[str], volume: Path, log: Path, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Run a command as the image's user on a read-only file system, with a volume at /mnt and a tmpfs at /tmp."""
        with log.open("wb") as output:
            return subprocess.Popen(
                [
                    "unshare",
                    "-m",
                    "sh",
                    "-c",
                    _START,
                    "sh",
                    str(self.root),
                    self.user,
                    str(volume),
                    *_environment({**self.environ, **(environ or {})}),
                    *command,
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
            )


def _environment(environ: Mapping[str, str], folder: str = "/") -> list[str]:
    """Return the prefix of a command line. It sets the folder, and removes environment variables except `environ`."""
    return ["/usr/bin/env", "-i", "-C", folder, *(f"{key}={value}" for key, value in environ.items())]


def parse(text: str, arguments: Mapping[str, str] | None = None) -> list[Stage]:
    """Return the stages of a Containerfile. `arguments` are values for ARG before the first stage."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    values: dict[str, str] = {}
    stages: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word == "ARG" and not stages:
            name, _, default = rest.partition("=")
            values[name] = (arguments or {}).get(name, default)
        elif word == "FROM":
            base, separator, name = _VARIABLE.sub(lambda match: values[match[1] or match[2]], rest).partition(" AS ")
            assert separator, f"a stage without a name: {line}"
            stages.append(Stage(base, name))
        else:
            stages[-1].instructions.append((word, rest))
    return stages


class Builder:
    """Builds the stages of a Containerfile in folders."""

    def __init__(self, stages: Sequence[Stage], context: Path, base: Path, work: Path) -> None:
        """Prepare to build stages. `context` is the folder from which COPY reads, `base` has the base image's files."""
        self._stages = {stage.name: stage for stage in stages}
        self._context = context
        self._base = base
        self._work = work
        self._images: dict[str, Image] = {}

    def build(self, name: str) -> Image:
        """Build a stage, and before it the stages that it needs."""
        if name not in self._images:
            self._images[name] = self._build(self._stages[name])
        return self._images[name]

    def _build(self, stage: Stage) -> Image:
        root = self._work / stage.name
        if stage.base in self._stages:
            image = attrs.evolve(self.build(stage.base), root=root)
            image.environ, image.labels = dict(image.environ), dict(image.labels)
            source = self._images[stage.base].root
        else:
            image, source = Image(root, {"PATH": "/usr/local/bin:/usr/bin:/bin"}), self._base
        subprocess.run(["cp", "-a", "--reflink=auto", source, root], check=True)
        for word, rest in stage.instructions:
            self._apply(image, word, rest)
        return image

    def _apply(self, image: Image, word: str, rest: str) -> None:
        match word:
            case "COPY":
                self._copy(image, rest.split())
            case "RUN":
                self._run(image, json.loads(rest))
            case "WORKDIR":
                image.folder = rest
                (image.root / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "ENV" | "LABEL":
                settings = {key: value.strip('"') for key, value in _SETTING.findall(rest)}
                (image.environ if word == "ENV" else image.labels).update(settings)
            case "USER":
                image.user = rest
            case "EXPOSE":
                image.ports = [int(port) for port in rest.split()]
            case "CMD":
                image.command = json.loads(rest)
            case "HEALTHCHECK":
                image.health = json.loads(rest.partition(" CMD ")[2])
            case "STOPSIGNAL":
                assert signal.Signals[rest] is signal.SIGTERM
            case _:
                raise AssertionError(f"unknown instruction {word}")

    def _copy(self, image: Image, words: list[str]) -> None:
        source = self._context
        if words[0].startswith("--from="):
            source = self.build(words.pop(0).partition("=")[2]).root
        *names, target = words
        folder = image.root / os.path.join(image.folder, target).lstrip("/")
        if len(names) > 1 or target.endswith("/"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            path = source / name.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, folder, symlinks=True, dirs_exist_ok=True)
            else:
                shutil.copy2(path, folder)

    def _run(self, image: Image, command: Sequence[str]) -> None:
        done = subprocess.run(
            [
                "unshare",
                "-m",
                "sh",
                "-c",
                _RUN,
                "sh",
                str(image.root),
                *_environment(image.environ, image.folder),
                *command,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_SECONDS,
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def python_tree(folder: Path, prefix: Path, programs: Sequence[str]) -> None:
    """Write the files of a base image: a Python installation in /usr/local, some programs, and their libraries.

    `folder` is the root folder of the image, and `prefix` is the folder of the Python installation. The image also gets
    this machine's configuration of pip, certificates and name resolution, because `pip` runs in the image.
    """
    shutil.copytree(
        prefix, folder / "usr" / "local", symlinks=True,
        ignore=shutil.ignore_patterns("test", "idlelib", "site-packages", "share", "__pycache__", "*.a"),
    )  # fmt: skip
    bin_folder = folder / "usr" / "local" / "bin"
    for script in [path for path in bin_folder.iterdir() if not path.name.startswith("python")]:
        script.unlink()
    for packages in (prefix / "lib").glob("python3.*/site-packages"):
        for path in packages.glob("pip*"):
            target = folder / "usr" / "local" / "lib" / packages.parent.name / "site-packages" / path.name
            shutil.copytree(path, target)
    for name in ("dev", "proc", "tmp", "mnt", "run", "opt", "etc", "root", "usr/bin"):
        (folder / name).mkdir()
    (folder / "bin").symlink_to("usr/bin")
    (folder / "tmp").chmod(0o1777)
    (folder / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    for name in ("resolv.conf", "hosts", "nsswitch.conf", "pip.conf", "xdg/pip", "ssl/certs/ca-certificates.crt"):
        _copy_file(Path("/etc") / name, folder)
    binaries = [Path(found) for program in programs if (found := shutil.which(program)) is not None]
    for binary in binaries:
        shutil.copy2(binary, folder / "usr" / "bin" / binary.name)
    extensions = (prefix / "lib").glob("python3.*/lib-dynload/*.so")
    for library in _libraries([prefix / "bin" / "python3", *binaries, *extensions]):
        if not library.is_relative_to(prefix):
            _copy_file(library, folder)
    (folder / "etc" / "ld.so.conf").write_text("/usr/local/lib\n")  # the folder of libpython
    subprocess.run(["ldconfig", "-r", folder], check=True)


def _libraries(binaries: Sequence[Path]) -> set[Path]:
    """Return the shared libraries of programs, and the libraries `_LIBRARIES_OF_WHEELS`."""
    listed = subprocess.run(["ldd", *map(str, binaries)], capture_output=True, text=True, check=False).stdout
    paths = {Path(path) for path in re.findall(r"(/\S+\.so\S*)", listed) if not path.endswith(":")}
    known = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for name in _LIBRARIES_OF_WHEELS:
        if found := re.search(rf"{re.escape(name)} .*=> (\S+)", known):
            paths.add(Path(found[1]))
    return paths


def _copy_file(path: Path, folder: Path) -> None:
    target = folder / str(path).lstrip("/")
    if target.exists() or not path.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.copytree(path, target)
    else:
        shutil.copy2(path, target)
