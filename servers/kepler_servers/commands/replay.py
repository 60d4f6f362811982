"""The command `kepler-model replay`."""

from __future__ import annotations

import click

from kepler_core.cli.configured_option import config_dir_option
from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_errors_option
from kepler_servers.commands.deployment import configure_server_logging, log_options

DEFAULT_PORT = 9102
_SIMULATED_SAMPLES = 1200
"""Number of samples of the simulated recording: one hour with a step of 3 s."""


@click.command(epilog=examples("replay", "replay recording.json.gz --port 9102 --speed 10 --loop"))
@click.argument("recording", required=False)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="Port to listen on."
)
@click.option(
    "--speed",
    type=click.FloatRange(0.01, 1000),
    default=1.0,
    show_default=True,
    help="Speed of the replay. The values of counters are divided by the speed, so that rates and watts stay the same.",
)
@click.option("--loop", is_flag=True, help="At the end of the recording, start again, like an exporter that restarts.")
@log_options
@config_dir_option
@json_errors_option
@click.pass_context
def replay(
    context: click.Context,
    recording: str | None,
    host: str,
    port: int,
    speed: float,
    loop: bool,
    log_level: str | None,
    config_dir: str | None,
) -> None:
    """Serve the metrics of a RECORDING as its exporter did, so that Prometheus can scrape them.

    Without a RECORDING, the command serves the metrics of a simulated node with Kepler 0.7, in an endless loop. The
    recording's labels `instance` and `job` stay only if the scrape configuration has `honor_labels: true`. /progress
    has the current position in the recording.
    """
    from kepler_core.recording import read_recording
    from kepler_core.simulate import Simulation
    from kepler_core.simulate import recording as simulated
    from kepler_servers.replay import Replay, serve_replay

    configure_server_logging(context, log_level)
    if recording is None:
        content = read_recording(simulated(Simulation(containers=8, timestamps=_SIMULATED_SAMPLES, accelerator=False)))
        loop = True
    else:
        content = read_recording(recording)

    def started(port: int) -> None:
        click.echo(f"replaying {recording or 'a simulated node'} at http://{host}:{port}/metrics")

    serve_replay(Replay(content, speed), host, port, loop=loop, on_start=started)
