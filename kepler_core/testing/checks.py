"""The class of checks of plugins, and the error that a failed check raises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from kepler_core.messages import one_line
from kepler_core.plugins.arguments import create


class CheckError(AssertionError):
    """The error of a plugin that breaks its contract. The message says what is wrong and how to correct it."""

    def __init__(self, reason: str, *, plugin: str = "", check: str = "") -> None:
        super().__init__(f"{plugin}: {check}: {reason}" if check else reason)
        self.reason = reason
        """The message without the names of the plugin and the check."""


@attrs.frozen(eq=False)
class Subject:
    """The plugin that is checked, and the arguments and objects that its checks use."""

    plugin: type[Any]
    name: str
    """The plugin's name if it is installed; otherwise the name of the plugin's class."""
    arguments: Mapping[str, Any]
    """The arguments that the plugin's `__init__` is called with."""
    extras: Mapping[str, Any]
    """Additional objects for the checks, for example a regressor for a model format."""

    def make(self) -> Any:
        """Return a new instance of the plugin, made with `arguments`."""
        return create(self.plugin, self.name, self.arguments)


CheckFunction = Callable[[Subject], None]
"""Function that raises `CheckError` if the plugin breaks its contract. Its `__name__` is the name of the check."""


@attrs.frozen(eq=False)
class Check:
    """One check of one plugin. Calling the object runs the check."""

    name: str
    subject: Subject
    function: CheckFunction

    def __call__(self) -> None:
        """Run the check; raise `CheckError` if the plugin breaks the part of its contract that is checked."""
        try:
            self.function(self.subject)
        except CheckError as error:
            raise CheckError(error.reason, plugin=self.subject.name, check=self.name) from error.__cause__
        except (Exception, SystemExit) as error:  # third-party code may raise anything
            reason = f"it raised {one_line(error)}"
            raise CheckError(reason, plugin=self.subject.name, check=self.name) from error

    def __str__(self) -> str:
        return self.name


def require(condition: object, message: str) -> None:
    """Raise `CheckError` with the message unless the condition is true."""
    if not condition:
        raise CheckError(message)
