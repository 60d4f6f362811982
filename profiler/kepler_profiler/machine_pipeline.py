"""Make the input of `train --data` from measured machines: a table, and a pipeline file."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from kepler_core.errors import TableError
from kepler_core.yaml_documents import encode_yaml
from kepler_profiler.machine_calibration import FactorListener, MachineRows
from kepler_profiler.machine_features import LOAD, REFERENCE, vendors_of
from kepler_profiler.machine_tables import MeasuredMachine
from kepler_profiler.processors import lookup

MIN_MACHINES = 20
"""Smallest number of machines to train from. With fewer machines, the errors on held-out machines mean little."""
TRAINER = "MachinePowerTrainer"
ARGUMENTS: Mapping[str, Any] = {"reference": REFERENCE, "rising": [LOAD]}
"""Arguments of the trainer."""
MIN_PROCESSORS = 20
"""If the table has at least this number of processors, all machines with the same processor are held out together. So
the errors and intervals are those of machines whose processor is not in the table. If the table has fewer processors,
machines with equal descriptions are held out together."""
_MAX_ROWS = 20_000
_FOLDS = 5


@attrs.frozen
class MachinePipeline:
    """The files for training: a table, and a pipeline file that names the table's features."""

    table: Path
    pipeline: Path
    features: tuple[str, ...]
    listener: FactorListener
    """Listener that adds `IntervalFactors` to the pipeline when the pipeline is published."""


def write_machine_pipeline(
    machines: Sequence[MeasuredMachine], name: str, folder: Path, *, with_idle: bool = False, basic: bool = False
) -> MachinePipeline:
    """Write a table with one row per machine and load, and a pipeline for this table, into a folder.

    With `with_idle`, the measured idle power of a machine is one of the features, and machines without a measurement at
    idle are left out. With `basic`, the features are only properties that every machine can find out itself.
    Raises `TableError` if there are fewer than `MIN_MACHINES` machines.
    """
    usable = [machine for machine in machines if not with_idle or machine.loads[0] == 0]
    if len(usable) < MIN_MACHINES:
        what = " with a measurement at idle" if with_idle else ""
        raise TableError(f"{len(usable)} machines{what}; a model needs at least {MIN_MACHINES}")
    nodes = nodes_of(usable)
    measured = MachineRows.of(usable, () if basic else vendors_of(usable), with_idle=with_idle, basic=basic)
    features = measured.features
    rows = [
        {"node": nodes[machine], "platform_power": watts, **dict(zip(features, values, strict=True))}
        for machine, watts, values in zip(
            measured.machine.tolist(), measured.watts.tolist(), measured.X.tolist(), strict=True
        )
    ]
    table, pipeline = folder / "machines.csv", folder / f"{name}.yaml"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["node", "platform_power", *features])
        writer.writeheader()
        writer.writerows(rows)
    document = {
        "name": name,
        "description": "Power of whole machines, from facts about the machine and its load",
        "energy_sources": ["acpi"],
        "feature_groups": ["ThirdParty"],
        "third_party": list(features),
        "abs_trainers": [{"name": TRAINER, "args": dict(ARGUMENTS)}],
        "max_rows": _MAX_ROWS,
        "keep_rows": 0,
        "validation": {"scheme": "nodes", "folds": _FOLDS, "regimes": 0},
    }
    pipeline.write_text(encode_yaml(document), encoding="utf-8")
    return MachinePipeline(table, pipeline, features, FactorListener(usable, nodes, measured, TRAINER, ARGUMENTS))


def nodes_of(machines: Sequence[MeasuredMachine]) -> list[str]:
    """Return the name of each machine's node.

    Validation holds out whole nodes. Machines with equal descriptions share a node, because the power of one of
    them tells the power of the others. If there are at least `MIN_PROCESSORS` processors, all machines with the
    same processor share a node.
    """
    processors = [_processor(machine) for machine in machines]
    if None not in processors and len(set(processors)) >= MIN_PROCESSORS:
        return [str(processor) for processor in processors]
    configurations: dict[object, int] = {}
    return [f"configuration {configurations.setdefault(one.description, len(configurations) + 1)}" for one in machines]


def _processor(machine: MeasuredMachine) -> str | None:
    """Return the name of a machine's processor; None if the table does not have it."""
    name = machine.words.get("processor") or machine.words.get("cpu_name")
    if not name:
        return None
    row = lookup(name)
    return " ".join(name.casefold().split())[:100] if row is None else row.model


def has_extra_facts(machines: Sequence[MeasuredMachine]) -> bool:
    """Return whether a table has properties that a machine cannot find out itself (see `machine_features`)."""
    return any(machine.facts for machine in machines) or bool(vendors_of(machines))
