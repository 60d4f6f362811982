"""The command `ask`, which sends a request to a running estimator."""

from __future__ import annotations

import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.cli.socket_option import socket_option
from kepler_core.client import EstimatorClient
from kepler_core.errors import UsageError
from kepler_core.honesty.flags import EXPLANATIONS
from kepler_core.messages import quoted
from kepler_core.vocabulary import OUTPUT_TYPES


@click.command(
    epilog=examples(
        "ask --metrics bpf_cpu_time_ms,bpf_page_cache_hit --values 20000,9000",
        "ask --metrics bpf_cpu_time_ms --values 20000 --explain",
    )
)
@click.option(
    "--metrics", metavar="A,B", required=True, help="Names of the features in --values, which are rates per second."
)
@click.option(
    "--values",
    metavar="1,2",
    required=True,
    multiple=True,
    help="Feature values of one row, in the order of --metrics. Can be repeated for more rows.",
)
@socket_option()
@click.option("--output-type", type=click.Choice(OUTPUT_TYPES), default="AbsPower", show_default=True)
@click.option("--source", default="rapl-sysfs", show_default=True, help="Name of the energy source, or its alias.")
@click.option("--trainer", default="", help="Name of a trainer. Use only its models.")
@click.option(
    "--filter",
    "filter_",
    default="",
    metavar="mae:5;…",
    help="Use only models that meet all conditions, e.g. mae:5 for a mean absolute error of at most 5 W.",
)
@click.option(
    "--explain", is_flag=True, help="Print the half-width of each interval, and the reasons to doubt the watts, too."
)
@json_option
def ask(
    metrics: str,
    values: tuple[str, ...],
    path: str,
    output_type: str,
    source: str,
    trainer: str,
    filter_: str,
    explain: bool,
    as_json: bool,
) -> None:
    """Send a request for watts to a running estimator over its unix socket, as Kepler does."""
    names = [name.strip() for name in metrics.split(",")]
    rows = [_row(text, len(names)) for text in values]
    client = EstimatorClient(path)
    reply = client.reply(
        names, rows, output_type=output_type, source=source, trainer_name=trainer, filter=filter_, explain=explain
    )
    if as_json:
        print_json(reply)
        return
    powers = reply["powers"]
    if reply.get("msg"):
        click.echo(f"note: {reply['msg']}", err=True)
    explanation = client.explanation(reply) if explain else None
    half_widths = {} if explanation is None else explanation.half_width
    print_table(
        [
            (number, *(_with_interval(watts[number], half_widths.get(c), number) for c, watts in powers.items()))
            for number in range(len(rows))
        ],
        ("row", *(f"{component} W" for component in powers)),
    )
    if explanation is not None:
        click.echo(f"\nmodel: {explanation.model}")
        if explanation.level is not None and half_widths:
            click.echo(f"±: the interval is meant to contain the true power with {100 * explanation.level:.0f} %")
        if explanation.problem:
            click.echo(f"problem: {explanation.problem}")
        for flag in explanation.flags:
            click.echo(f"  - {flag}: {EXPLANATIONS.get(flag, 'unknown flag')}")


def _with_interval(watts: float, half_widths: list[float] | None, row: int) -> str:
    return f"{watts:.3f}" if half_widths is None else f"{watts:.3f} ± {half_widths[row]:.1f}"


def _row(text: str, width: int) -> list[float]:
    try:
        row = [float(part) for part in text.split(",")]
    except ValueError:
        row = []
    if len(row) != width:
        raise UsageError(f"--values {quoted(text)}: expected {width} numbers, separated by commas")
    return row
