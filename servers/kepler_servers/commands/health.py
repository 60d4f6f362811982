"""The command `kepler-model health`, which the health checks of containers run."""

from __future__ import annotations

import click
import msgspec

from kepler_core.cli.configured_option import config_dir_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json


@click.command(epilog=examples("health", "health http://localhost:8100 --ready", "health /tmp/estimator.sock"))
@click.argument("targets", metavar="[URL|SOCKET]...", nargs=-1)
@click.option("--ready", is_flag=True, help="Ask whether the servers can answer their clients (/readyz).")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 60),
    default=3.0,
    show_default=True,
    help="Time limit per server in seconds.",
)
@json_option
@config_dir_option
def health(targets: tuple[str, ...], ready: bool, timeout: float, as_json: bool, config_dir: str | None) -> None:
    """Check whether servers are healthy.

    URL is the address of a server, e.g. http://localhost:8100, and SOCKET is the path of an estimator's unix socket.
    Without an argument, the command checks all servers of this machine that listen at their configured or default
    addresses. At least one server must listen.

    The exit code is 1 if a server is not healthy.
    """
    from kepler_core.configuration import Configuration
    from kepler_core.errors import KeplerError
    from kepler_servers.health import check, default_targets

    named = targets or tuple(default_targets(Configuration(config_dir)))
    results = [check(target, ready=ready, timeout=timeout) for target in named]
    if not targets:
        asked = ", ".join(result.target for result in results)
        results = [result for result in results if result.running]
        if not results:
            raise KeplerError(f"no server listens at {asked}; name the server's URL or socket")
    if as_json:
        print_json(msgspec.to_builtins(results))
    else:
        for result in results:
            click.echo(f"{result.target}: {result.state}")
    if not all(result.healthy for result in results):
        raise click.exceptions.Exit(1)
