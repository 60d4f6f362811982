"""The command `machines estimate`: estimate the power of machines that were never measured, and of their guests."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import click

from kepler_core.cli.examples import examples
from kepler_core.cli.output import json_option, print_json, print_table
from kepler_core.errors import KeplerError, UsageError, close_matches
from kepler_core.machine import MachineSpec, read_machine_spec
from kepler_core.messages import printable
from kepler_profiler.formula import (
    Estimate,
    GuestPower,
    IdleShare,
    MachineDescription,
    NoEstimate,
    describe,
    guest_share,
    host_of,
    package_watts,
    published,
)
from kepler_profiler.formula_document import LAYOUT
from kepler_profiler.processors import (
    Processor,
    instance_vcpus,
    lookup,
    similar_processors,
    stated_instance_type,
)

if TYPE_CHECKING:
    from kepler_profiler.machine_model import MachineModel

_SHOWN_CHARACTERS = 60
_SHOWN_LOADS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)


@attrs.frozen
class _Facts:
    """Facts about a machine from the user's options; None for a fact that the user does not state."""

    processor: str | None
    threads: int | None
    cores: int | None
    chips: int | None
    memory: float | None
    tdp: float | None
    year: int | None


@click.command(
    epilog=examples(
        'machines estimate --processor "Xeon Gold 6230" --chips 2 --memory 192',
        "machines estimate --instance m5.2xlarge --load 0.5",
    )
)
@click.option("--spec", "spec_file", metavar="FILE", help="File that `profile machine -o` has written.")
@click.option("--processor", metavar="NAME", help="Name of the processor, e.g. 'Xeon Gold 6230'.")
@click.option("--threads", type=int, help="Number of logical CPUs of all chips.")
@click.option("--cores", type=int, help="Number of cores of all chips.")
@click.option("--chips", type=int, help="Number of processor chips (sockets).")
@click.option("--memory", type=float, metavar="GIB", help="Memory in GiB.")
@click.option("--tdp", type=float, metavar="WATTS", help="Thermal design power of one chip.")
@click.option("--year", type=int, help="Year in which the processor was introduced.")
@click.option("--instance", metavar="TYPE", help="Estimate a cloud instance instead, e.g. m5.2xlarge.")
@click.option("--vcpus", type=int, help="Number of virtual CPUs of a guest (default: the number in the name TYPE).")
@click.option("--host-load", type=float, metavar="LOAD", help="Load of the guest's host from 0 to 1, if it is known.")
@click.option(
    "--idle-share",
    type=click.Choice(["reservation", "none"]),
    default="reservation",
    show_default=True,
    help="Part of the host's idle power that belongs to a guest: in proportion to its reserved CPUs, or nothing.",
)
@click.option("--load", type=float, help="Load from 0 (idle) to 1 (all CPUs busy). Default: several loads.")
@click.option("--idle-watts", type=float, metavar="N", help="Measured idle power of the whole machine in watts (AC).")
@click.option("-s", "--store", metavar="DIR|URL", help="Estimate with a model of this store, not with the formula.")
@click.option("--pipeline", help="Use only models of this pipeline of the store.")
@click.option(
    "--fact",
    "stated_facts",
    metavar="NAME=VALUE",
    multiple=True,
    help="Further fact for a model: vendor, frequency_mhz, dimm_count, l3_mb, psu_count, psu_rating_w or disk_count. "
    "Can be repeated.",
)
@json_option
def estimate(
    spec_file: str | None,
    instance: str | None,
    vcpus: int | None,
    host_load: float | None,
    idle_share: IdleShare,
    load: float | None,
    idle_watts: float | None,
    store: str | None,
    pipeline: str | None,
    stated_facts: tuple[str, ...],
    as_json: bool,
    **facts: Any,
) -> None:
    """Estimate the power of a machine that was never measured.

    The machine is described by a file, by options, or by the name of a cloud instance. The default is
    this machine. The watts are AC power of the whole machine, with an interval that is meant to contain 90 % of the
    true values. They come from the machine formula or, with --store, from a model that `machines fit` has trained.
    docs/machine-formula.md explains the formula and the models.
    """
    stated = _Facts(**facts)
    loads = _SHOWN_LOADS if load is None else (load,)
    if instance is not None:
        if spec_file is not None or any(value is not None for value in attrs.astuple(stated)):
            raise UsageError("--instance describes the machine already; leave out --spec and the facts")
        machine, vcpus = _host(instance, vcpus)
    else:
        machine = _machine(spec_file, stated)
    model = _model(store, pipeline, stated_facts, idle_watts)
    powers = published() if model is None else model
    if vcpus is not None:
        guests = [
            (
                at,
                guest_share(
                    machine, vcpus, at, host_load=host_load, idle_share=idle_share, idle_watts=idle_watts, powers=powers
                ),
            )
            for at in loads
        ]
        _print_guest(machine, vcpus, guests, model, as_json)
        return
    if host_load is not None:
        raise UsageError("--host-load needs a guest (--vcpus or --instance)")
    _print_machine(machine, [(at, powers.estimate(machine, at, idle_watts=idle_watts)) for at in loads], model, as_json)


def _model(
    store: str | None, pipeline: str | None, stated: tuple[str, ...], idle_watts: float | None
) -> MachineModel | None:
    """Return the model to estimate with; None without `--store`."""
    if store is None:
        if pipeline is not None or stated:
            raise UsageError("--pipeline and --fact are only for models of a store; give --store")
        return None
    from kepler_core.store import open_store
    from kepler_profiler.machine_model import find_machine_model

    facts, vendor = _extra_facts(stated)
    return find_machine_model(
        open_store(store), pipeline=pipeline, idle_known=idle_watts is not None, facts=facts, vendor=vendor
    )


def _extra_facts(stated: tuple[str, ...]) -> tuple[dict[str, float], str | None]:
    """Return the numbers that `--fact` states about the machine, by name, and the vendor of the machine."""
    from kepler_profiler.machine_tables import EXTRA_FACTS

    facts: dict[str, float] = {}
    vendor = None
    for text in stated:
        name, _, value = text.partition("=")
        if name == "vendor" and value:
            vendor = value
            continue
        shown = f"--fact {printable(text, _SHOWN_CHARACTERS)}"
        if name not in EXTRA_FACTS:
            raise UsageError(f"{shown}: unknown fact; {close_matches(name, ('vendor', *EXTRA_FACTS))}")
        try:
            facts[name] = float(value)
        except ValueError:
            facts[name] = math.nan
        if not 0 < facts[name] <= 1e6:
            raise UsageError(f"{shown}: not a number between 0 and 1000000")
    return facts, vendor


def _host(instance: str, vcpus: int | None) -> tuple[MachineDescription, int]:
    """Return the physical machine that a cloud instance runs on, and the instance's number of virtual CPUs."""
    option = f"--instance {printable(instance, _SHOWN_CHARACTERS)}"
    family = stated_instance_type(instance)
    host = host_of(family)
    if host is None:
        processors = " or ".join(family.processors)
        raise UsageError(
            f"{option}: {family.provider} does not publish the size of the hosts ({processors}); "
            "describe a host with --threads, --chips and --processor, and the guest with --vcpus"
        )
    count = vcpus or instance_vcpus(instance)
    if count is None and ".metal" in instance:
        count = host.threads
    if count is None:
        raise UsageError(f"{option}: the name does not tell the number of virtual CPUs; give --vcpus")
    return host, count


def _machine(spec_file: str | None, facts: _Facts) -> MachineDescription:
    """Return the description of the machine.

    The description comes from three sources: the user's options, the file (or this machine), and the table of
    processors. Each property of the machine is taken from the first source that has it.
    """
    if spec_file is not None:
        spec = read_machine_spec(spec_file)
    elif any(value is not None for value in attrs.astuple(facts)):
        spec = MachineSpec()
    else:
        spec = _this_machine()
    processor = _processor(facts, spec)
    chips = facts.chips or spec.chips or (1 if facts.processor and facts.threads is None else None)
    spec = attrs.evolve(spec, cores=facts.threads or spec.cores, chips=chips)
    described = describe(spec, processor)
    if described is None:
        raise UsageError("the number of logical CPUs is not known; give --threads, or a --processor of the table")
    return attrs.evolve(
        described,
        cores=described.cores if facts.cores is None else facts.cores,
        memory_gib=described.memory_gib if facts.memory is None else facts.memory,
        tdp_watts=described.tdp_watts if facts.tdp is None else facts.tdp,
        year=described.year if facts.year is None else facts.year,
    )


def _this_machine() -> MachineSpec:
    from kepler_profiler.machine import discover

    discovery = discover()
    if discovery.virtual is not None:
        raise UsageError(
            f"this is a virtual machine ({discovery.virtual}), which does not show its host; give --instance TYPE, "
            "or describe the host with --threads, --chips and --processor, and the guest with --vcpus"
        )
    return discovery.spec


def _processor(facts: _Facts, spec: MachineSpec) -> Processor | None:
    name = facts.processor or spec.processor
    if name is None:
        return None
    processor = lookup(name)
    if processor is None and facts.processor is not None and (facts.threads is None or facts.tdp is None):
        option, hint = f"--processor {printable(name, _SHOWN_CHARACTERS)}", similar_processors(name)
        raise UsageError(f"{option}: not in the table of processors; {hint} (or give --threads and --tdp)")
    return processor


def _print_machine(
    machine: MachineDescription,
    rows: list[tuple[float, Estimate | NoEstimate]],
    model: MachineModel | None,
    as_json: bool,
) -> None:
    estimates = [(load, result) for load, result in rows if isinstance(result, Estimate)]
    if not estimates:
        _print_nothing(machine, rows[0][1].reasons, as_json)
        return
    if as_json:
        documents = [
            {"load": load, **attrs.asdict(result), "package_watts": round(package_watts(result).watts, 1)}
            for load, result in estimates
        ]
        print_json(
            {
                "machine": attrs.asdict(machine),
                "source": _source(model),
                "estimates": [_rounded(document) for document in documents],
            }
        )
        return
    print_table(
        [(f"{100 * load:g} %", *_cells(result), _cells(package_watts(result))[0]) for load, result in estimates],
        ("load", "watts", "lower", "upper", "of it CPU packages"),
    )
    _print_facts(machine, estimates[0][1], model)


def _print_guest(
    machine: MachineDescription,
    vcpus: int,
    rows: list[tuple[float, GuestPower | NoEstimate]],
    model: MachineModel | None,
    as_json: bool,
) -> None:
    estimates = [(busy, result) for busy, result in rows if isinstance(result, GuestPower)]
    if not estimates:
        _print_nothing(machine, rows[0][1].reasons, as_json)
        return
    if as_json:
        documents = [_rounded({"busy": busy, **attrs.asdict(result)}) for busy, result in estimates]
        host = attrs.asdict(machine)
        print_json({"host": host, "vcpus": vcpus, "source": _source(model), "estimates": documents})
        return
    print_table(
        [(f"{100 * busy:g} %", *_cells(result)) for busy, result in estimates],
        ("guest busy", "watts", "lower", "upper"),
    )
    click.echo(f"\nA guest with {vcpus} of the {machine.threads} threads of its host.")
    first = estimates[0][1]
    share = "its reserved share of the host's idle power" if first.idle_share == "reservation" else "no idle power"
    click.echo(f"The watts contain {share} ({first.idle:.1f} W).")
    _print_facts(machine, first, model)


def _source(model: MachineModel | None) -> dict[str, Any]:
    """Return where the watts come from, for the JSON output."""
    if model is None:
        return {"kind": "formula", "name": "formula", "version": str(LAYOUT)}
    mape = None if model.mape is None else round(model.mape, 2)
    return {"kind": "model", "name": model.name, "version": model.version, "mape_of_held_out_machines": mape}


def _print_facts(machine: MachineDescription, result: Estimate | GuestPower, model: MachineModel | None) -> None:
    facts = [f"{machine.threads} threads", f"{machine.known_cores} cores", f"{machine.known_chips} chips"]
    facts += [] if machine.tdp_watts is None else [f"{machine.tdp_watts:g} W of thermal design power for each chip"]
    facts += [] if machine.memory_gib is None else [f"{machine.memory_gib:g} GiB of memory"]
    facts += [] if machine.year is None else [f"processor of {machine.year}"]
    click.echo(f"Machine: {', '.join(facts)}. Class of the interval: {result.error_class}.")
    if model is not None:
        version = f", version {model.version}" if model.version else ""
        error = "" if model.mape is None else f"; mean error on held-out machines {model.mape:.1f} %"
        click.echo(f"Model: {model.name}{version}{error}.")
    for reason in result.reasons:
        click.echo(f"  {reason}")


def _print_nothing(machine: MachineDescription, reasons: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        print_json({"machine": attrs.asdict(machine), "estimates": [], "reasons": reasons})
    raise KeplerError(f"no estimate: {'; '.join(reasons)}")


def _cells(result: Estimate | GuestPower) -> tuple[str, str, str]:
    return f"{result.watts:.1f}", f"{result.lower:.1f}", f"{result.upper:.1f}"


def _rounded(document: dict[str, Any]) -> dict[str, Any]:
    return {name: round(value, 2) if isinstance(value, float) else value for name, value in document.items()}
