"""What a check is and how it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from kepler_core.messages import one_line
from kepler_core.plugins.arguments import create


class CheckError(AssertionError):
    """A plugin breaks its contract. The message says what is wrong and how to correct it."""

    def __init__(self, reason: str, *, plugin: str = "", check: str = "") -> None:
        super().__init__(f"{plugin}: {check}: {reason}" if check else reason)
        self.reason = reason
        """The message without the names of the plugin and the check."""


@attrs.frozen(eq=False)
class Subject:
    """The plugin that is checked, and with what."""

    plugin: type[Any]
    name: str
    """The plugin's name if it is installed, else the name of the class."""
    arguments: Mapping[str, Any]
    """The arguments of the plugin's `__init__`."""
    extras: Mapping[str, Any]
    """Additional objects for the checks, for example a regressor for a model format."""

    def make(self) -> Any:
        """Return a new instance of the plugin."""
        return create(self.plugin, self.name, self.arguments)


CheckFunction = Callable[[Subject], None]
"""Raises `CheckError` if the plugin breaks its contract. Its name is the name of the check."""


@attrs.frozen(eq=False)
class Check:
    """One check of one plugin; call it to run it."""

    name: str
    subject: Subject
    function: CheckFunction

    def __call__(self) -> None:
        """Raise `CheckError` if the plugin breaks this part of its contract."""
        try:
            self.function(self.subject)
        except CheckError as error:
            raise CheckError(error.reason, plugin=self.subject.name, check=self.name) from error.__cause__
        except (Exception, SystemExit) as error:  # third-party code
            reason = f"it raised {one_line(error)}"
            raise CheckError(reason, plugin=self.subject.name, check=self.name) from error

    def __str__(self) -> str:
        return self.name


def require(condition: object, message: str) -> None:
    """Raise `CheckError` with the message unless the condition is true."""
    if not condition:
        raise CheckError(message)
