"""Options of `train` for pairs of recordings (one of a host, one of its guest), and functions that read pairs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from kepler_core.cli.idle_watts import parse_idle_watts
from kepler_core.errors import UsageError
from kepler_core.vocabulary import VM_SOURCES, Target

if TYPE_CHECKING:
    from kepler_core.machine import Machine
    from kepler_core.pairs.guest import GuestUsage
    from kepler_core.pairs.host import Reservation
    from kepler_core.pairs.joining import Pair
    from kepler_core.pipeline.spec import PipelineSpec
    from kepler_core.pipeline.tables import TableTraining

F = TypeVar("F", bound=Callable[..., Any])


@attrs.frozen
class PairFiles:
    """The pairs of recordings that a user names, and how to join them."""

    hosts: tuple[str, ...]
    guests: tuple[str, ...]
    """Files of the guests, in the order of `hosts`."""
    vm: str
    guest_node: str | None
    target: Target | None
    """Target of the training. None: the pipeline's target. But if the pipeline's target is `machine`, the target is
    `kepler`."""
    offset: float | None
    largest_offset: float
    idle_watts: str | None
    reserved: float | None


_OPTIONS = (
    click.option(
        "--host",
        "pair_hosts",
        metavar="FILE",
        multiple=True,
        help="Recording of Kepler 0.10 or later on the host of a virtual machine, e.g. by `kepler-model pair host`. "
        "Needs --guest and --vm. Can be repeated.",
    ),
    click.option(
        "--guest",
        "pair_guests",
        metavar="FILE",
        multiple=True,
        help="Features of the virtual machine at the same time: a table (.csv, e.g. by `kepler-model pair guest`), or "
        "a recording of an exporter in the guest. Give one --guest for each --host.",
    ),
    click.option(
        "--vm", "pair_vm", metavar="ID", help="Label vm_id or vm_name of the virtual machine in the host's metrics."
    ),
    click.option(
        "--guest-node", "pair_guest_node", metavar="NODE", help="Node of the guest, if its recording has several nodes."
    ),
    click.option(
        "--target",
        "pair_target",
        type=click.Choice(list(VM_SOURCES)),
        help="The part of the host's power that belongs to the virtual machine (default: the pipeline's target, else "
        "kepler).",
    ),
    click.option(
        "--offset",
        "pair_offset",
        type=float,
        metavar="SECONDS",
        help="Number of seconds by which work appears earlier in the guest's file than in the host's file (default: "
        "estimated from the changes of CPU time and power).",
    ),
    click.option(
        "--largest-offset",
        "pair_largest_offset",
        type=click.FloatRange(0.5, 600),
        default=15.0,
        show_default=True,
        metavar="SECONDS",
        help="To estimate the offset of the clocks, try the offsets from -SECONDS to SECONDS.",
    ),
    click.option(
        "--idle-watts",
        "pair_idle_watts",
        metavar="[COMPONENT=]WATTS[,…]",
        help="Power of the idle host, for --target marginal.",
    ),
    click.option(
        "--reserved",
        "pair_reserved",
        type=click.FloatRange(0, 1),
        metavar="PART",
        help="Part of the host that is reserved for the virtual machine, for --target marginal: its virtual CPUs "
        "divided by the host's CPUs.",
    ),
)


def pair_options(command: F) -> F:
    """Add the options that name pairs of recordings to a command. Its argument `pairs` gets the options' values."""

    @functools.wraps(command)
    def with_pairs(*arguments: Any, **options: Any) -> Any:
        values = {name: options.pop(name) for name in list(options) if name.startswith("pair_")}
        return command(*arguments, pairs=_pair_files(values), **options)

    wrapped: Any = with_pairs
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _pair_files(values: dict[str, Any]) -> PairFiles | None:
    """Return the pairs that the options name; None if they name no files.

    Raises `UsageError` if an option is missing.
    """
    hosts, guests, vm = values["pair_hosts"], values["pair_guests"], values["pair_vm"]
    if not hosts and not guests:
        alone = {
            "--vm": vm,
            "--target": values["pair_target"],
            "--offset": values["pair_offset"],
            "--guest-node": values["pair_guest_node"],
            "--idle-watts": values["pair_idle_watts"],
            "--reserved": values["pair_reserved"],
        }
        if given := [name for name, value in alone.items() if value is not None]:
            raise UsageError(f"{given[0]} needs --host and --guest")
        return None
    if len(hosts) != len(guests):
        raise UsageError(f"{len(hosts)} --host, but {len(guests)} --guest: give a guest's file for each host's file")
    if vm is None:
        raise UsageError("name the virtual machine: --vm ID (label vm_id or vm_name in the recording of the host)")
    return PairFiles(
        hosts,
        guests,
        vm,
        values["pair_guest_node"],
        values["pair_target"],
        values["pair_offset"],
        values["pair_largest_offset"],
        values["pair_idle_watts"],
        values["pair_reserved"],
    )


def read_pairs(files: PairFiles, spec: PipelineSpec, machine: Machine | None) -> TableTraining:
    """Read and align pairs for a pipeline, and print how they were joined to standard error."""
    from kepler_core.pairs.joining import pair_table
    from kepler_core.pipeline.tables import table_training

    target = _target(files, spec)
    reservation = _reservation(files, target)
    pairs = [
        _read_pair(files, host, guest, target, reservation, spec)
        for host, guest in zip(files.hosts, files.guests, strict=True)
    ]
    for pair in pairs:
        for line in pair.lines():
            click.echo(f"kepler-model: {line}", err=True)
    source = VM_SOURCES[target]
    spec = attrs.evolve(spec, target=target, energy_sources=[source])
    training = table_training(spec, [pair_table(pair) for pair in pairs], machine, source)
    for note in training.notes:
        click.echo(f"kepler-model: {note}", err=True)
    return attrs.evolve(training, pairs=tuple(pair.description() for pair in pairs))


def _target(files: PairFiles, spec: PipelineSpec) -> Target:
    if files.target is not None:
        if spec.target not in ("machine", files.target):
            raise UsageError(f"--target {files.target}: the pipeline {spec.name} has the target {spec.target}")
        return files.target
    return "kepler" if spec.target == "machine" else spec.target


def _reservation(files: PairFiles, target: Target) -> Reservation | None:
    if target != "marginal":
        if files.idle_watts is not None or files.reserved is not None:
            raise UsageError("--idle-watts and --reserved need --target marginal")
        return None
    if files.idle_watts is None or files.reserved is None:
        raise UsageError(
            "--target marginal needs the power of the idle host and the reserved part of the host, e.g. --idle-watts "
            "package=40 --reserved 0.25 (`kepler-model doctor` shows the idle power in a recording)"
        )
    from kepler_core.pairs.host import Reservation
    from kepler_core.vocabulary import RAPL_COMPONENTS

    return Reservation(parse_idle_watts(files.idle_watts, RAPL_COMPONENTS), files.reserved)


def _read_pair(
    files: PairFiles,
    host: str,
    guest: str,
    target: Target,
    reservation: Reservation | None,
    spec: PipelineSpec,
) -> Pair:
    from kepler_core.kepler_names import PAIR_METRICS
    from kepler_core.pairs.alignment import align, given_offset
    from kepler_core.pairs.host import read_host
    from kepler_core.pairs.joining import Pair
    from kepler_core.recording import read_recording

    recording = read_recording(host, wanted=lambda metric: metric in PAIR_METRICS)
    windows = read_host(recording, files.vm, target, reservation)
    usage, digest = read_guest(guest, files.guest_node, spec.third_party)
    if files.offset is None:
        alignment = align(windows, usage, files.largest_offset)
    else:
        alignment = given_offset(files.offset, usage)
    return Pair(windows, usage, alignment, target, (host, guest), (recording.digest, digest))


def read_guest(path: str, node: str | None, third_party: Sequence[str] = ()) -> tuple[GuestUsage, str]:
    """Return the features of a guest from a table or a recording, and the SHA-256 of the file."""
    from kepler_core.pairs.guest import guest_of_observations, guest_of_table
    from kepler_core.tables.table import SUFFIXES, read_table

    if path.lower().endswith(SUFFIXES):
        table = read_table(path, {}, third_party, needs_power=False)
        return guest_of_table(table, node), table.digest
    from kepler_core.cli.inputs import read_all
    from kepler_core.recording import observe

    recording = read_all([path], third_party)[0]
    observations = observe([recording], third_party=third_party)
    return guest_of_observations(observations, node, path), recording.digest
