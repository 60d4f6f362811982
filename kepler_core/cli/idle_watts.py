"""The option `--idle-watts`, the known idle power of a machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import click

from kepler_core.errors import UsageError, close_matches
from kepler_core.vocabulary import COMPONENTS

F = TypeVar("F", bound=Callable[..., Any])


def idle_watts_option(purpose: str) -> Callable[[F], F]:
    """Return the click option `--idle-watts` with the help text `purpose`."""
    return click.option("--idle-watts", metavar="[COMPONENT=]WATTS[,…]", help=purpose)


def parse_idle_watts(text: str, components: Collection[str]) -> dict[str, float]:
    """Return the idle power by component from a value of `--idle-watts`, e.g. "package=30,dram=5" or "120".

    A number alone means the platform if it is in `components`, otherwise the package. Raises `UsageError` if a
    component is unknown or a number is not finite and above 0.
    """
    alone = "platform" if "platform" in components else "package"
    idle: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = part.rpartition("=")
        component = name.strip() if separator else alone
        if component not in COMPONENTS:
            raise UsageError(
                f"--idle-watts {part}: unknown component {component!r}; {close_matches(component, COMPONENTS)}"
            )
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"--idle-watts {part}: expected a number of watts above 0, such as package=30")
        if component in idle:
            raise UsageError(f"--idle-watts {text}: {component} occurs twice")
        idle[component] = value
    return idle


def check_components(idle_watts: Mapping[str, float], components: Collection[str]) -> None:
    """Raise `UsageError` if a component of `idle_watts` is not in `components`, the components of the models."""
    for component in idle_watts:
        if component not in components:
            raise UsageError(
                f"--idle-watts {component}: no model has this component; {close_matches(component, components)}"
            )
