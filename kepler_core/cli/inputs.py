"""Command-line options that several commands share, and functions that read the files that users pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kepler_core.documents import DocumentError, decode_object
from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_core.machine import MachineSpec
    from kepler_core.recording import Recording, RecordingParts

F = TypeVar("F", bound=Callable[..., Any])


def input_option(*, required: bool = True) -> Callable[[F], F]:
    """Return the click option `--input FILE`, which users can repeat."""
    return click.option(
        "-i",
        "--input",
        "inputs",
        metavar="FILE",
        multiple=True,
        required=required,
        help="A recording: Prometheus range-query results (.json, .json.gz or .parquet). Can be repeated.",
    )


def store_option(*, required: bool = True) -> Callable[[F], F]:
    """Return the click option `--store DIR|URL`."""
    return click.option(
        "-s",
        "--store",
        metavar="DIR|URL",
        required=required,
        help="The model store: a folder, or a URL such as s3://bucket/folder.",
    )


def vm_guest_option() -> Callable[[F], F]:
    """Return the click option `--vm-guest INSTANCE=VM_ID`, which users can repeat."""
    return click.option(
        "--vm-guest",
        "vm_guests",
        metavar="INSTANCE=VM_ID",
        multiple=True,
        help="Treat a virtual machine as one node. Its usage comes from the series with the label instance=INSTANCE "
        "(from the exporter inside the virtual machine). Its energy comes from the series with the label vm_id=VM_ID "
        "(from the exporter on the host). Can be repeated.",
    )


def machine_spec_option() -> Callable[[F], F]:
    """Return the click option `--machine-spec FILE`."""
    return click.option(
        "--machine-spec",
        metavar="FILE",
        help="JSON file with the description of the machine, as `kepler-model profile machine` writes it.",
    )


def machine_specs_option(use: str) -> Callable[[F], F]:
    """Return the click option `--machine-specs FILE|metrics`. `use` is the end of the option's help text."""
    return click.option(
        "--machine-specs",
        metavar="FILE|metrics",
        help="JSON file with the description of each node's machine, by name of the node; or the word `metrics`, if "
        f"metrics in the recordings describe the machines{use}",
    )


FROM_METRICS = "metrics"
"""Value of --machine-specs if the recordings' own metrics describe the machines. A file of this name is `./metrics`."""


def read_machine_specs(path: str) -> dict[str, MachineSpec]:
    """Return the descriptions of machines in a file, by node. See `kepler_core.pipeline.machine_groups`."""
    from kepler_core.pipeline.machine_groups import machine_specs_from

    return machine_specs_from(read_object(path), path)


def parse_vm_guests(pairs: Sequence[str]) -> dict[str, str]:
    """Read the values of `--vm-guest`. Return a dictionary from each guest to the id of its virtual machine.

    Raises `UsageError` if a value is malformed, or if a guest or a virtual machine occurs twice.
    """
    guests: dict[str, str] = {}
    for pair in pairs:
        guest, _, vm = pair.partition("=")
        if not guest or not vm:
            raise UsageError(f"--vm-guest {pair}: expected INSTANCE=VM_ID, e.g. vm-1:9100=machine-qemu-1-vm")
        if guest in guests or vm in guests.values():
            raise UsageError(f"--vm-guest {pair}: the guest or the virtual machine is named twice")
        guests[guest] = vm
    return guests


def vm_settings(guests: Mapping[str, str]) -> tuple[str, ...]:
    """Return the pipeline settings (`path=value`) that have the same effect as the option --vm-guest."""
    return ("use_vm_metrics=true", f"vm_guests={json.dumps(guests)}") if guests else ()


def read_object(path: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises `UsageError` if the file cannot be read or does not hold a JSON object.
    """
    try:
        with open(path, "rb") as file:
            return decode_object(file.read())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from error
    except DocumentError as error:
        raise UsageError(f"{path}: not a JSON object: {error}") from error


def idle_option() -> Callable[[F], F]:
    """Return the click option `--idle FILE`, which may be repeated."""
    return click.option(
        "--idle", metavar="FILE", multiple=True, help="A recording of the idle machine, for isolators. Can be repeated."
    )


def profile_option() -> Callable[[F], F]:
    """Return the click option `--profile FILE`."""
    return click.option(
        "--profile",
        metavar="FILE",
        help="JSON file with the profile of the machine's node type (default: the profile in the store).",
    )


def metric_prefix_option() -> Callable[[F], F]:
    """Return the click option `--metric-prefix PREFIX`."""
    return click.option(
        "--metric-prefix",
        metavar="PREFIX",
        help="First word of the exporter's metric names, instead of kepler: the metrics are called "
        "PREFIX_container_cpu_cycles_total etc.",
    )


def open_all(
    inputs: Sequence[str],
    third_party: Collection[str] = (),
    metric_prefix: str | None = None,
    part_samples: int | None = None,
) -> list[Recording | RecordingParts]:
    """Open the recordings in files. Read recordings in JSON at once, as `read_all` does.

    A recording in Parquet is read later, part by part, when its observations are computed. The hook
    `kepler_recording_loaded` is called for each part. `part_samples` is the number of samples of a part; None stands
    for the default.
    """
    from kepler_core.pipeline.observing import open_known

    return [
        _called(open_known(name, third_party, metric_prefix=metric_prefix, part_samples=part_samples))
        for name in inputs
    ]


def _called(recording: Recording | RecordingParts) -> Recording | RecordingParts:
    """Call the hook `kepler_recording_loaded` for a recording, or for each part of it when the part is read."""
    import attrs

    from kepler_core.plugins.hooks import hooks
    from kepler_core.recording.parts import RecordingParts, parts_of

    def read() -> Iterator[Recording]:
        for part in parts_of(recording):
            hooks().call("kepler_recording_loaded", recording=part)
            yield part

    return attrs.evolve(recording, read=read) if isinstance(recording, RecordingParts) else next(read())


def read_all(
    inputs: Sequence[str], third_party: Collection[str] = (), metric_prefix: str | None = None
) -> list[Recording]:
    """Read the recordings in files and call the hook `kepler_recording_loaded` for each recording.

    The function reads only metrics that an installed metric schema knows, and the metrics named in `third_party`.
    `metric_prefix` is the first word of the metrics' names, if it differs from the first word in the schema.
    """
    from kepler_core.pipeline.observing import read_known
    from kepler_core.plugins.hooks import hooks

    recordings = []
    for name in inputs:
        recordings.append(read_known(name, third_party, metric_prefix=metric_prefix))
        hooks().call("kepler_recording_loaded", recording=recordings[-1])
    return recordings
