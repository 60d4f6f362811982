"""The option `--socket` of commands that ask a running estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kepler_core.cli.configured_option import configured_option
from kepler_core.client import DEFAULT_SOCKET

F = TypeVar("F", bound=Callable[..., Any])


def socket_option() -> Callable[[F], F]:
    """Return the click option `--socket PATH`."""
    return configured_option(
        "--socket",
        "path",
        key="ESTIMATOR_SOCKET",
        default=DEFAULT_SOCKET,
        show_default=True,
        help="Path of the estimator's unix socket.",
    )
