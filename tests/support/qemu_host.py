"""A simulated host of QEMU guests."""

from __future__ import annotations

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class QemuHost:
    """A root folder in which `proc` contains files of simulated processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "proc").mkdir()
        self.seconds: dict[int, float] = {}

    def start(self, pid: int, *arguments: str, started: int = 1000) -> None:
        folder = self.root / "proc" / str(pid)
        folder.mkdir(exist_ok=True)
        (folder / "cmdline").write_text("".join(f"{argument}\0" for argument in arguments))
        self.seconds[pid] = 0.0
        self.use(pid, 0.0, started)

    def use(self, pid: int, seconds: float, started: int = 1000) -> None:
        """Let a process use `seconds` of CPU time."""
        self.seconds[pid] += seconds
        ticks = round(self.seconds[pid] * TICKS)
        fields = ["S", *["0"] * 10, str(ticks // 2), str(ticks - ticks // 2), *["0"] * 6, str(started), *["0"] * 30]
        (self.root / "proc" / str(pid) / "stat").write_text(f"{pid} (CPU 0/KVM) x) {' '.join(fields)}\n")

    def end(self, pid: int) -> None:
        for file in (self.root / "proc" / str(pid)).iterdir():
            file.unlink()
        (self.root / "proc" / str(pid)).rmdir()


def qemu(name: str, cpus: int) -> tuple[str, ...]:
    return "/usr/bin/qemu-system-x86_64", "-name", f"guest={name},debug-threads=on", "-smp", f"{cpus},sockets={cpus}"
