"""A group of commands that imports the module of a command only when the command runs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from kepler_core.errors import close_matches


class LazyCommand(NamedTuple):
    """The place from which to import a command, and the short help of the command for lists of commands."""

    target: str
    """The module and the name of the click command, in the form `module:object`."""
    short_help: str
    """The first sentence of the command's help text."""

    def load(self) -> click.Command:
        """Import the command's module and return the command."""
        module, _, name = self.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


class LazyGroup(click.Group):
    """A group that lists its commands without importing their modules.

    Starting one command does not import the other commands. The list of commands is available even if an
    extra that some commands need is not installed.
    """

    def __init__(self, *arguments: Any, lazy: Mapping[str, LazyCommand] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.lazy, *sorted(set(self.commands) - set(self.lazy))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.lazy:
            return self.lazy[cmd_name].load()
        return super().get_command(ctx, cmd_name)

    def short_helps(self, ctx: click.Context) -> dict[str, str]:
        """Return a dictionary from the name of each command that is not hidden to its short help.

        The modules of the commands in `lazy` are not imported.
        """
        texts = {}
        for name in self.list_commands(ctx):
            if name in self.lazy:
                texts[name] = self.lazy[name].short_help
            elif (command := self.get_command(ctx, name)) is not None and not command.hidden:
                texts[name] = command.get_short_help_str(limit=200)
        return texts

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click.Group.format_commands would import every command to get its short help
        if texts := self.short_helps(ctx):
            with formatter.section("Commands"):
                formatter.write_dl(list(texts.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # `super(click.Group, self)` skips click.Group.shell_complete, which would import every command
        names = [
            CompletionItem(name, help=text)
            for name, text in self.short_helps(ctx).items()
            if name.startswith(incomplete)
        ]
        return [*names, *super(click.Group, self).shell_complete(ctx, incomplete)]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0] if args else ""
        if not name.startswith("-") and name not in self.lazy and self.get_command(ctx, name) is None:
            ctx.fail(f"no command {name!r}; {close_matches(name, self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)
