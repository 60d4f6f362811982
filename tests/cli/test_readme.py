"""Test that the commands in the README print what the README shows: the same words, and nearly the same numbers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.command import kepler
from support.paths import ROOT

pytest.importorskip("sklearn")

COMMANDS = ("quickstart", "simulate", "validate", "train", "estimate", "select", "machines")
TOLERANCE = 0.05
"""Allowed difference of a number, as a fraction: other versions of the libraries give slightly other models."""
_NUMBER = re.compile(r"-?\d+\.\d+")


def shown_commands() -> list[tuple[list[str], list[str]]]:
    """Return the arguments of each command in the README's blocks, and the lines of output that the README shows."""
    shown: list[tuple[list[str], list[str]]] = []
    for block in re.findall(r"(?ms)^```\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8")):
        lines = [line for line in block.splitlines() if line.strip()]
        for line in lines:
            if line.startswith("$ "):
                words = shlex.split(line.removeprefix("$ "))
                shown.append((words[1:] if words[0] == "kepler-model" else [], []))
            elif shown:
                shown[-1][1].append(line)
    return [(words, lines) for words, lines in shown if words and words[0] in COMMANDS]


def same(shown: str, printed: str) -> bool:
    """Return whether two lines have the same words, and numbers that differ by at most `TOLERANCE`."""
    words, actual = (_NUMBER.sub("#", " ".join(line.split())) for line in (shown, printed))
    numbers = zip(_NUMBER.findall(shown), _NUMBER.findall(printed), strict=False)
    return words == actual and all(abs(float(a) - float(b)) <= TOLERANCE * abs(float(a)) + 0.05 for a, b in numbers)


def test_the_commands_print_what_the_readme_shows(tmp_path: Path) -> None:
    compared = 0
    request = re.search(r"(?ms)^\$ cat request\.json\n(.*?)^\$", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert request is not None
    (tmp_path / "request.json").write_text(request[1])
    for words, lines in shown_commands():
        done = kepler(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        printed = (done.stdout + done.stderr).splitlines()
        for line in lines:
            if "…" not in line and not set(line) <= {"-", " "}:
                assert any(same(line, other) for other in printed), f"{' '.join(words)} does not print: {line}"
                compared += 1
    assert compared >= 30
