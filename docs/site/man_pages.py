"""Write a manual page in the form of man(7) for `kepler-model` and for each of its commands: `make man`.

The pages have the same texts as `--help`: `man -l build/man/kepler-model-train.1` shows one of them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from kepler_core import __version__
from kepler_core.cli.examples import PROGRAM, TITLE
from kepler_core.cli.main import CONTEXT_SETTINGS, cli

EXIT_CODES = {
    "0": "success",
    "1": "failure; one line on standard error gives the reason",
    "2": "wrong usage",
    "3": "partial failure, e.g. some of the models failed to train",
    "130": "interrupted",
}


_ESCAPED = {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}


def roff(text: str) -> str:
    """Return a text as ASCII, with escapes so that roff does not interpret any part of it as a command."""
    for character, escaped in _ESCAPED.items():
        text = text.replace(character, escaped)
    text = "".join(letter if letter.isascii() else f"\\[u{ord(letter):04X}]" for letter in text)
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def commands(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield a command and all commands below it, each with its context."""
    yield command, ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            if below is not None and not below.hidden:
                yield from commands(below, click.Context(below, info_name=name, parent=ctx, **CONTEXT_SETTINGS))


def page(command: click.Command, ctx: click.Context) -> str:
    """Return the manual page of a command."""
    path = ctx.command_path
    lines = [
        f'.TH "{roff(path.replace(" ", "-")).upper()}" "1" "" "Kepler Core {__version__}" "Kepler Core"',
        ".SH NAME",
        f"{roff(path.replace(' ', '-'))} \\- {roff(command.get_short_help_str(limit=500).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {roff(path)}",
        roff(" ".join(command.collect_usage_pieces(ctx))),
        ".SH DESCRIPTION",
        *paragraphs(command.help or ""),
    ]
    params = [param for param in command.get_params(ctx) if isinstance(param, click.Option)]
    options = [record for option in params if (record := option.get_help_record(ctx))]
    if options:
        lines.append(".SH OPTIONS")
        for names, text in options:
            lines += [".TP", f".B {roff(names)}", roff(text)]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            if below is not None and not below.hidden:
                lines += [".TP", f".B {roff(name)}", roff(below.get_short_help_str(limit=500))]
    lines += epilog(command.epilog or "")
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES.items():
        lines += [".TP", f".B {code}", roff(meaning)]
    parent = ctx.parent
    if parent is not None:
        lines += [".SH SEE ALSO", f".BR {roff(parent.command_path.replace(' ', '-'))} (1)"]
    return "\n".join(lines) + "\n"


def paragraphs(text: str) -> Iterator[str]:
    """Yield the lines of a help text. Paragraphs that begin with \\b keep their line breaks."""
    for part in re.split(r"\n\s*\n", text.strip()):
        yield ".PP"
        if part.lstrip().startswith("\b"):
            yield from (".nf", roff(part.replace("\b\n", "").replace("\b", "")), ".fi")
        else:
            yield roff(" ".join(part.split()))


def epilog(text: str) -> Iterator[str]:
    """Yield the lines of a section for each paragraph at the end of a help text, such as the examples."""
    for part in re.split(r"\n\s*\n", text.strip()):
        content = part.replace("\b\n", "").replace("\b", "")
        if content.startswith(TITLE):
            yield from (".SH EXAMPLES", ".nf", roff(content.removeprefix(TITLE).strip("\n")), ".fi")
        elif content.strip():
            title, _, rest = content.partition("\n")
            yield from (f".SH {roff(title.strip().rstrip(':').upper())}", ".nf", roff(rest), ".fi")


def write(folder: Path) -> list[Path]:
    """Write all pages to a folder, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    root = click.Context(cli, info_name=PROGRAM, **CONTEXT_SETTINGS)
    for command, ctx in commands(cli, root):
        path = folder / f"{ctx.command_path.replace(' ', '-')}.1"
        path.write_text(page(command, ctx), encoding="utf-8")
        written.append(path)
    return written


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "build/man")
    print(f"{len(write(target))} pages in {target}")
