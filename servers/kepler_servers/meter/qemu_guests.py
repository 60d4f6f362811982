"""Find the QEMU guests of this host, and read their CPU time from /proc."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

_PROGRAM = re.compile(r"(?:^|/)(?:qemu-system-[\w.-]+|libexec/qemu-kvm|bin/kvm)$|^(?:qemu-kvm|kvm)$")
"""Pattern of the paths of QEMU's program in Debian and most other systems, in RHEL and OpenShift, and in Proxmox."""
_MAX_ARGUMENT_BYTES = 2**17
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_MAX_NAME_CHARACTERS = 100
RESCAN_CALLS = 10
"""Number of calls of `guests` after which the program of each process is read again. A process that was read earlier
may have started QEMU since then."""


@attrs.frozen
class Guest:
    """A virtual machine that runs on this host."""

    pid: int
    started: int
    """Start time of the process, in clock ticks since the boot. A later process with the same number has another start
    time."""
    name: str
    """Name of the guest; if it has none, its UUID; if it has neither, `pid-N`. The text is safe as the name of a
    folder."""
    cpus: int
    """Number of virtual CPUs."""
    cpu_seconds: float
    """CPU time of the process since its start. It includes the guest's work and QEMU's own work."""


class GuestScanner:
    """Lists the QEMU guests of a host. The command line of a process is read once, its CPU time at each call.

    The class is not thread-safe.
    """

    def __init__(self, root: str = "/") -> None:
        """`root` is the folder that contains `proc`."""
        self._proc = Path(root) / "proc"
        self._ticks = os.sysconf("SC_CLK_TCK")
        self._others: set[str] = set()
        """Numbers of the processes that do not run QEMU."""
        self._guests: dict[str, Guest] = {}
        self._calls = 0

    def guests(self) -> list[Guest]:
        """Return the guests that run now, ordered by process number. Raises `OSError` if /proc cannot be listed."""
        numbers = {name for name in os.listdir(self._proc) if name.isdigit()}
        self._calls += 1
        if self._calls % RESCAN_CALLS == 0:
            self._others.clear()
        self._others &= numbers
        found = {}
        for number in sorted(numbers - self._others, key=int):
            guest = self._guest(number)
            if guest is None:
                self._others.add(number)
            else:
                found[number] = guest
        self._guests = found
        return list(found.values())

    def _guest(self, number: str) -> Guest | None:
        known = self._guests.get(number)
        try:
            started, seconds = self._times(number) if known is not None else (0, 0.0)
            if known is not None and known.started == started:
                return attrs.evolve(known, cpu_seconds=seconds)
            with (self._proc / number / "cmdline").open("rb") as file:
                arguments = file.read(_MAX_ARGUMENT_BYTES).decode(errors="replace").split("\0")
            if _PROGRAM.search(arguments[0]) is None:
                return None
            started, seconds = self._times(number)
        except (OSError, ValueError, IndexError):  # the process has ended meanwhile
            return None
        name = _guest_name(arguments) or f"pid-{number}"
        return Guest(int(number), started, name, _cpus(arguments), seconds)

    def _times(self, number: str) -> tuple[int, float]:
        """Return the start time of a process in ticks, and its CPU time in seconds."""
        with (self._proc / number / "stat").open("rb") as file:
            # The name of the program is in parentheses, and may itself contain blanks and parentheses.
            fields = file.read(4096).rpartition(b")")[2].split()
        return int(fields[19]), (int(fields[11]) + int(fields[12])) / self._ticks


def _options(arguments: Sequence[str], option: str) -> Iterator[str]:
    """Yield the values of a QEMU option. The option may begin with one or two dashes."""
    for word, value in itertools.pairwise(arguments):
        if word in (f"-{option}", f"--{option}"):
            yield value


def _guest_name(arguments: Sequence[str]) -> str:
    """Return the guest's name or UUID in a form that is safe as a folder name; empty if the guest has neither."""
    for option, key in (("name", "guest"), ("uuid", "")):
        for value in _options(arguments, option):
            name = _UNSAFE.sub("-", _property(value, key)).strip(".-")[:_MAX_NAME_CHARACTERS]
            if name:
                return name
    return ""


def _cpus(arguments: Sequence[str]) -> int:
    for value in _options(arguments, "smp"):
        text = _property(value, "cpus")
        if text.isdigit() and 0 < int(text) <= 4096:
            return int(text)
    return 1


def _property(value: str, key: str) -> str:
    """Return the property `key` of a value such as `guest=vm-a,debug-threads=on`.

    If the value has no such key, but begins with a text without a key, return that text. If there is neither, return an
    empty text.
    """
    first, *others = value.split(",")
    for part in (first, *others):
        name, separator, text = part.partition("=")
        if separator and name == key:
            return text
    return "" if "=" in first else first
