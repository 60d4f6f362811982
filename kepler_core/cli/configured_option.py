"""Command-line options that can also be set in the environment or in the configuration folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from kepler_core.configuration import FOLDER_KEY, Configuration
from kepler_core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])

_SEPARATORS = re.compile(r"[,\n]")
_NUMBER_TYPE = re.compile(r"not a valid (integer|float)( range)?")
"""Matches the part of click's error message which states that a value is not a number."""


class ConfiguredOption(click.Option):
    """An option that falls back to the value of a configuration key if it is not on the command line.

    Use it as `click.option(…, cls=ConfiguredOption, key="KEY")`. See `kepler_core.configuration` for the order of the
    sources. The values of a repeatable option are separated by commas or line ends in the configuration. A wrong
    value raises `UsageError`, whose message names the key.
    """

    def __init__(self, *arguments: Any, key: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.key = key
        self.help = f"{self.help or ''}  [configuration key: {key}]"

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.COMMANDLINE:
            return value, source
        # For an option without a value, click 8.2 and later puts an internal object into `params` instead of None.
        folder = ctx.params.get("config_dir")
        text = Configuration(folder if isinstance(folder, str) else None).text(self.key)
        if text is None:
            return value, source
        configured: Any = text
        if self.is_flag:
            configured = text.casefold() == "true"
        elif self.multiple:
            configured = [word.strip() for word in _SEPARATORS.split(text) if word.strip()]
        return configured, ParameterSource.ENVIRONMENT

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        try:
            return super().type_cast_value(ctx, value)
        except click.BadParameter as error:
            if self.name is not None and ctx.get_parameter_source(self.name) is ParameterSource.ENVIRONMENT:
                raise UsageError(
                    f"{self.key}: {_NUMBER_TYPE.sub('not a number', error.message).rstrip('.')}"
                ) from error
            raise


config_dir_option = click.option(
    "-c",
    "--config-dir",
    metavar="DIR",
    is_eager=True,  # click parses this option first, because the folder has the values of other options
    help=f"Folder with one file for each configuration key.  [environment variable: {FOLDER_KEY}]",
)


def configured_option(*names: str, key: str, **settings: Any) -> Callable[[F], F]:
    """Return a decorator that adds a `ConfiguredOption` to a command, as `click.option` does."""
    return click.option(*names, cls=ConfiguredOption, key=key, **settings)
