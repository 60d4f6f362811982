"""Command-line options for queries of a Prometheus server, and functions that parse times and durations."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.cli.configured_option import configured_option
from kepler_core.errors import UsageError
from kepler_core.messages import quoted
from kepler_core.recording.times import unix_seconds

if TYPE_CHECKING:
    from kepler_core.configuration import Configuration
    from kepler_core.prometheus import PrometheusClient

HEADERS_KEY = "PROM_HEADERS"
"""Configuration key of HTTP headers to add to each request, one per line. Old deployments of
kepler-model-server use this key."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OWN_HEADERS = ("accept-encoding", "connection", "content-length", "host", "transfer-encoding")

F = TypeVar("F", bound=Callable[..., Any])

_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)d)?(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?")


def access_options(command: F) -> F:
    """Add options to a command: how to access a Prometheus server, and which series to query."""
    for option in reversed(
        (
            configured_option(
                "--user", "username", key="PROM_USER", metavar="NAME", help="User name for HTTP basic authentication."
            ),
            configured_option(
                "--password-file", key="PROM_PASSWORD_FILE", metavar="FILE", help="File with the password of --user."
            ),
            configured_option(
                "--token-file",
                key="PROM_TOKEN_FILE",
                metavar="FILE",
                help="File with a bearer token for authentication.",
            ),
            click.option(
                "--header",
                "headers",
                metavar="'NAME: VALUE'",
                multiple=True,
                help="Header to send with each request, e.g. a tenant: 'X-Scope-OrgID: team-a'. May be repeated.  "
                "[configuration key: PROM_HEADERS, one header in each line]",
            ),
            configured_option(
                "--ca-file",
                key="PROM_CA_FILE",
                metavar="FILE",
                help="PEM file of the CA certificates that the server is verified with.",
            ),
            click.option(
                "--insecure/--secure",
                default=None,
                help="Do not verify the server's certificate.  [configuration key: PROM_SSL_DISABLE]",
            ),
            configured_option(
                "--instance",
                key="PROM_INSTANCE",
                metavar="RE",
                help="Query only nodes whose whole instance label matches this regular expression.",
            ),
            configured_option(
                "--selector",
                key="PROM_SELECTOR",
                metavar="MATCHERS",
                help="Query only series that also match these label matchers, e.g. 'cluster=\"a\"'.",
            ),
            configured_option(
                "--instances-per-query",
                key="PROM_INSTANCES_PER_QUERY",
                metavar="N",
                type=click.IntRange(1),
                help="Number of instances whose series one query fetches.  [default: as many as give answers of 8 MiB]",
            ),
            configured_option(
                "--rate",
                key="PROM_REQUEST_RATE",
                metavar="N",
                type=click.FloatRange(0.01),
                default=50.0,
                show_default=True,
                help="Maximum number of requests per second.",
            ),
            click.option(
                "--compress/--no-compress",
                default=None,
                help="Whether the server compresses its answers, which costs it CPU time.  [configuration key: "
                "PROM_COMPRESS; default: compress, except if the server is on this machine]",
            ),
        )
    ):
        command = option(command)
    return command


def open_client(
    url: str,
    configuration: Configuration,
    *,
    username: str | None,
    password_file: str | None,
    token_file: str | None,
    ca_file: str | None,
    insecure: bool | None,
    headers: Mapping[str, str],
    patience: float,
    rate: float,
    compress: bool | None,
    stop: threading.Event | None = None,
) -> PrometheusClient:
    """Return a client of the Prometheus server at `url`, without sending a request.

    `headers` are added to the client's own headers (see `headers_of`). If the server does not answer, the
    client repeats a request for at most `patience` seconds. It sends at most `rate` requests per second.
    See `Server.compress` for `compress`. If `insecure` or `compress` is None, the configuration decides.
    """
    from kepler_core.prometheus import PrometheusClient, Server

    if password_file is not None and username is None:
        raise UsageError("--password-file needs --user")
    server = Server(
        url if "://" in url else f"http://{url}",
        username=username,
        password=None if password_file is None else _secret(password_file),
        token=None if token_file is None else _secret(token_file),
        ca_file=ca_file,
        verify=not configuration.flag("PROM_SSL_DISABLE", insecure),
        headers=headers,
        compress=configuration.flag("PROM_COMPRESS", compress),
    )
    return PrometheusClient(server, patience=patience, requests_per_second=rate, stop=stop)


def headers_of(options: Sequence[str], configuration: Configuration) -> dict[str, str]:
    """Return a dictionary of the HTTP headers in the option `--header` and in the configuration key PROM_HEADERS.

    An option replaces a configured header of the same name. Error messages never contain a header's
    value, because it may be a secret.
    """
    lines = (configuration.text(HEADERS_KEY) or "").splitlines()
    configured = _parsed_headers([line for line in lines if line.strip()], HEADERS_KEY)
    given = _parsed_headers(options, "--header")
    names = {name.lower() for name in given}
    return {**{name: value for name, value in configured.items() if name.lower() not in names}, **given}


def _parsed_headers(lines: Sequence[str], origin: str) -> dict[str, str]:
    headers: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, colon, value = (part.strip() for part in line.partition(":"))
        if not colon or not _HEADER_NAME.fullmatch(name):
            raise UsageError(f"{origin}: header {number} is not 'Name: value'")
        if name.lower() in _OWN_HEADERS:
            raise UsageError(f"{origin}: {name} cannot be set; the client sets this header itself")
        if any(name.lower() == other.lower() for other in headers):
            raise UsageError(f"{origin}: {name} is given twice")
        if not value or not all(" " <= character <= "~" or character == "\t" for character in value):
            raise UsageError(f"{origin}: the value of {name} is empty, or contains a control or non-ASCII character")
        headers[name] = value
    return headers


def matchers_of(selector: str | None) -> tuple[str, ...]:
    """Return the label matchers in the option `--selector`, without braces; an empty tuple if there are none."""
    text = (selector or "").strip()
    if text.startswith("{") and text.endswith("}"):
        text = text[1:-1]
    return (text.strip().rstrip(","),) if text.strip() else ()


def seconds_of(text: str, option: str) -> float:
    """Return the number of seconds in a duration such as 90s, 15m, 2h, 1h30m or 1d."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise UsageError(f"{option}: {quoted(text, 40)} is not a duration (e.g. 90s, 15m, 2h, 1h30m, 1d)")
    return sum(float(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))


def unix_time(text: str, option: str) -> float:
    """Parse a time in Unix seconds or ISO 8601 and return Unix seconds; a time without a time zone is in UTC."""
    try:
        return unix_seconds(text)
    except ValueError:
        raise UsageError(
            f"{option}: {quoted(text, 40)} is not a time (Unix seconds, or e.g. 2026-03-01T12:00:00Z)"
        ) from None


def _secret(name: str) -> str:
    try:
        return Path(name).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
