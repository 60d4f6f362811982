"""Reads the code blocks of documentation pages, and the comments that state what a test does with a block.

CONTRIBUTING.md, section "Examples in the documentation", describes the convention for authors.

A block in the language `console` contains commands, which begin with `$ `, and the output of each command. An HTML
comment in the line before a block changes what tests do with the block:

- `<!-- file: NAME -->`: the block is the content of a file, which is written before the next command runs.
- `<!-- not run: REASON -->`: the block is not run.
- `<!-- shared data: NAME -->`: the block needs the folder `../shared/data/NAME`, which is linked as `NAME` into the
  working folder. If `../shared/data/NAME` is missing, the block is not run.
- `<!-- exit code: N -->`: the last command of the block ends with this exit code.

A comment that begins with `<!-- setup` contains commands that prepare the working folder of the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import attrs

from support.paths import ROOT, SHARED

LANGUAGES = ("console", "text", "json", "yaml", "toml", "xml", "python", "ini", "sql")
"""Allowed languages of blocks. `text` is for diagrams, formulas and lists of files. `console` is for commands."""

_BLOCK = re.compile(r"(?ms)^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$")
_COMMENT = re.compile(r"<!-- (?P<key>file|not run|shared data|exit code): (?P<value>[^\n]+?) -->")
_SETUP = re.compile(r"(?ms)^<!-- setup\n(.*?)^-->$")
_BARE_COMMAND = re.compile(r"(?m)^\s*(\$ |(sudo |\w+\$ )?(kepler-model|curl|pip|make|promtool|model-server) )")


@attrs.frozen
class Command:
    """A command of a `console` block, and the lines of output that the page shows."""

    line: int
    """Line number of the command in its documentation page."""
    text: str
    shown: tuple[str, ...]
    exit_code: int

    @property
    def background(self) -> bool:
        """Whether the command starts a program in the background."""
        return self.text.rstrip().endswith("&")


@attrs.frozen
class Block:
    """A code block of a page."""

    line: int
    language: str
    text: str
    file: str | None
    """Name of the file that the block is written to."""
    reason: str | None
    """The reason why tests do not run the block; None if they run it."""
    exit_code: int | None
    shared_data: str | None = None
    """Name of the folder in ../shared/data that the block needs."""

    @property
    def commands(self) -> list[Command]:
        """The commands that tests run. The list is empty if the block is no `console` block, or must not be run."""
        if self.language != "console" or self.reason is not None or self.file is not None:
            return []
        return read_commands(self.text, self.line + 1, self.exit_code)


def read_commands(text: str, line: int = 1, exit_code: int | None = None) -> list[Command]:
    """Return the commands in the text of a `console` block. Raises `ValueError` if the text has no command.

    A command continues in the next line if its line ends with a backslash. A command must fail if its output contains
    the line `PROGRAM: error: …`. `exit_code` is the exit code of the last command.
    """
    found: list[tuple[int, list[str], list[str]]] = []
    for number, content in enumerate(text.splitlines(), line):
        if content.startswith("$ "):
            found.append((number, [content.removeprefix("$ ")], []))
        elif not found:
            raise ValueError(f"line {number}: a console block begins with a command: $ …")
        elif found[-1][1][-1].endswith("\\") and not found[-1][2]:
            found[-1][1].append(content)
        elif content.strip():
            found[-1][2].append(content)
    commands = []
    for number, words, shown in found:
        fails = any(re.match(r"[\w-]+: error: ", content) for content in shown)
        last = number == found[-1][0]
        code = exit_code if last and exit_code is not None else (-1 if fails else 0)
        commands.append(Command(number, "\n".join(words), tuple(shown), code))
    if not commands:
        raise ValueError(f"line {line}: a console block without a command")
    return commands


def read_blocks(text: str) -> list[Block]:
    """Return the code blocks of a page, in their order."""
    blocks = []
    for match in _BLOCK.finditer(text):
        indent = len(match["indent"])
        content = "".join(line[indent:] if line.strip() else line for line in match["text"].splitlines(keepends=True))
        values = dict(_comments_before(text, match.start()))
        code = values.get("exit code")
        line = text.count("\n", 0, match.start()) + 1
        shared, reason = values.get("shared data"), values.get("not run")
        if shared is not None and not (SHARED / "data" / shared).is_dir():
            reason = f"needs ../shared/data/{shared}"
        blocks.append(
            Block(
                line,
                match["language"].strip(),
                content,
                values.get("file"),
                reason,
                None if code is None else int(code),
                shared,
            )
        )
    return blocks


def _comments_before(text: str, end: int) -> Iterator[tuple[str, str]]:
    """Yield the keys and values of the HTML comments (`<!-- key: value -->`) directly before the position `end`."""
    before = text[:end].rstrip()
    while before.endswith("-->"):
        start = before.rfind("<!--")
        if (match := _COMMENT.fullmatch(before[start:])) is None:
            return
        yield match["key"], match["value"]
        before = before[:start].rstrip()


def setup_commands(text: str) -> list[Command]:
    """Return the commands that prepare the working folder of a page."""
    return [command for match in _SETUP.finditer(text) for command in read_commands(match[1])]


def bare_commands(block: Block) -> bool:
    """Return whether a block contains a command that no test runs, although the page states no reason for this."""
    if block.language == "console" or block.file is not None or block.reason is not None:
        return False
    return block.language in ("", "text", "ini") and _BARE_COMMAND.search(block.text) is not None


def pages() -> list[Path]:
    """Return the pages whose blocks are tested: the README, the documentation, and pages beside code.

    README.zh-CN.md is left out: `tests/cli/test_readme_translation.py` checks that its blocks are those of README.md.
    """
    beside = [*ROOT.glob("*.md"), *(ROOT / "deploy").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    found = {*beside, *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md", ROOT / "README.zh-CN.md"}
    return sorted(found, key=lambda path: (path.parent != ROOT, path.as_posix()))


def page_name(path: Path) -> str:
    """Return a page's path in the repository."""
    return path.relative_to(ROOT).as_posix()
