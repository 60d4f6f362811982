"""Options of the commands that query a Prometheus server: access, times and durations."""

from __future__ import annotations

import datetime
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.errors import UsageError
from kepler_core.messages import quoted

if TYPE_CHECKING:
    from kepler_core.prometheus import PrometheusClient

F = TypeVar("F", bound=Callable[..., Any])

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def access_options(command: F) -> F:
    """Add the options for access to a Prometheus server and for the choice of series."""
    for option in reversed(
        (
            click.option("--user", "username", metavar="NAME", help="User for basic authentication."),
            click.option("--password-file", metavar="FILE", help="File with the password for basic authentication."),
            click.option("--token-file", metavar="FILE", help="File with a bearer token."),
            click.option("--ca-file", metavar="FILE", help="File of certificates (PEM) to verify the server's with."),
            click.option(
                "--insecure/--secure",
                default=None,
                help="Do not verify the server's certificate.  [key: PROM_SSL_DISABLE]",
            ),
            click.option("--instance", metavar="RE", help="Only nodes whose whole instance label matches."),
            click.option(
                "--selector", metavar="MATCHERS", help="Further label matchers of every series, e.g. 'cluster=\"a\"'."
            ),
        )
    ):
        command = option(command)
    return command


def open_client(
    url: str,
    *,
    username: str | None,
    password_file: str | None,
    token_file: str | None,
    ca_file: str | None,
    insecure: bool,
    patience: float,
    stop: threading.Event | None = None,
) -> PrometheusClient:
    """Return a client of the server. No request is sent yet. `patience` is in seconds."""
    from kepler_core.prometheus import PrometheusClient, Server

    if password_file is not None and username is None:
        raise UsageError("--password-file goes with --user")
    server = Server(
        url if "://" in url else f"http://{url}",
        username=username,
        password=None if password_file is None else _secret(password_file),
        token=None if token_file is None else _secret(token_file),
        ca_file=ca_file,
        verify=not insecure,
    )
    return PrometheusClient(server, patience=patience, stop=stop)


def matchers_of(selector: str | None) -> tuple[str, ...]:
    """Return the value of `--selector` as label matchers. Braces around it are allowed."""
    text = (selector or "").strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    return (text.strip().rstrip(","),) if text.strip() else ()


def seconds_of(text: str, option: str) -> float:
    """Return the seconds of a duration such as 90s, 15m, 2h, 1h30m or 1d."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise UsageError(f"{option}: {quoted(text, 40)} is not a duration (e.g. 90s, 15m, 2h, 1h30m, 1d)")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))


def unix_time(text: str, option: str) -> float:
    """Return the Unix seconds of a time in Unix seconds or ISO 8601 (UTC if it has no zone)."""
    try:
        return float(text)
    except ValueError:
        pass
    try:
        time = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"{option}: {quoted(text, 40)} is not a time (Unix seconds, or e.g. 2026-03-01T12:00:00Z)"
        ) from None
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()


def _secret(name: str) -> str:
    try:
        return Path(name).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
