"""Factors that make the interval of a machine model narrower for known processors, and wider for newer hardware.

`machines fit` measures the intervals of its models on processors that were held out from the training. A machine with a
processor from the training is easier to predict. A machine that is newer than all machines of the training is harder to
predict. So `machines fit` measures two factors. For each factor, it holds out other machines of the table:

- `known`: whole configurations, if a machine with the same processor stays in the training;
- `newer`: all machines of the newest years.

Each factor is a conformal quantile of error ÷ half-width (`kepler_core.pipeline.interval_terms.calibration`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.contracts import FitTask
from kepler_core.errors import ModelError
from kepler_core.honesty.document import IntervalTerms, read_honesty
from kepler_core.honesty.interval import SAME_TYPE, half_width
from kepler_core.plugins import registry
from kepler_core.plugins.hooks import hookimpl
from kepler_profiler.machine_description import MachineDescription
from kepler_profiler.machine_features import LOAD, YEAR, machine_features
from kepler_profiler.machine_tables import MeasuredMachine

FILE = "machine_intervals.json"
"""Name of the file with the factors, in the pipeline's folder."""
MAX_FILE_BYTES = 2**20
COMPONENT = "platform"
FOLDS = 5
NEWER_PART = 0.15
"""To measure `newer`, the machines of the newest years are held out: at least this fraction of all machines."""
MIN_OLDER_MACHINES = 20
"""Minimum number of older machines, which the model is trained on to measure `newer`."""
_MAX_FACTOR = 10.0
"""Highest factor that is stored. If a model needed a higher factor, its predictions would be meaningless."""

Processor = tuple[float, float, float, str]

_Factor = Annotated[float, msgspec.Meta(gt=0, le=_MAX_FACTOR)]


class IntervalFactors(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `FILE`: factors for the half-widths of machines with known processors and of newer machines."""

    layout: Literal[1]
    processors: Annotated[list[Processor], msgspec.Meta(max_length=5_000)]
    """The processors of the machines in the training, as `processor_of` returns them."""
    known: _Factor
    """Factor for a machine with a processor that a machine of the training has."""
    newer: _Factor | None
    """Factor for a machine that is newer than all machines of the training; None if it was not measured."""

    def has(self, machine: MachineDescription) -> bool:
        """Return whether a machine of the training has the same processor as `machine`."""
        return processor_of(machine) in self.processors


def read_factors(content: bytes) -> IntervalFactors:
    """Decode the content of `FILE`. Raises `ModelError` if it does not fit the schema."""
    try:
        return msgspec.json.decode(content, type=IntervalFactors)
    except msgspec.DecodeError as error:
        raise ModelError(f"{FILE}: {error}") from error


def processor_of(machine: MachineDescription) -> Processor | None:
    """Return what identifies a processor: its thermal design power, cores, threads per core and vendor.

    Return None if the thermal design power is not known.
    """
    if machine.tdp_watts is None:
        return None
    cores = machine.known_cores / machine.known_chips
    return machine.tdp_watts, cores, machine.threads / machine.known_cores, machine.vendor or ""


@attrs.frozen(eq=False)
class MachineRows:
    """Features and power of measured machines: one row per machine and load."""

    X: FloatArray
    """Shape (rows, features)."""
    watts: FloatArray
    features: tuple[str, ...]
    machine: IntArray
    """Index of the machine that each row belongs to."""

    @classmethod
    def of(
        cls, machines: Sequence[MeasuredMachine], vendors: Sequence[str], *, with_idle: bool, basic: bool
    ) -> MachineRows:
        """Return the rows of these machines. See `write_machine_pipeline` for the arguments."""
        rows = []
        for one in machines:
            idle = float(one.watts[0]) if with_idle else None
            facts = machine_features(one.description, None if basic else one.facts, one.words, vendors, idle)
            rows += [{LOAD: float(load), **facts} for load in one.loads]
        features = tuple(rows[0])
        return cls(
            np.array([[row[name] for name in features] for row in rows]),
            np.concatenate([one.watts for one in machines]),
            features,
            np.repeat(np.arange(len(machines)), [len(one.loads) for one in machines]),
        )

    def predicted(self, test: BoolArray, trainer: str, arguments: Mapping[str, Any]) -> FloatArray:
        """Train a model on the rows outside of `test`, and return the power that it predicts for the rows in `test`."""
        return predicted(self.features, self.X[~test], self.watts[~test], self.X[test], trainer, arguments)


def predicted(
    features: tuple[str, ...],
    X: FloatArray,
    watts: FloatArray,
    new_X: FloatArray,
    trainer: str,
    arguments: Mapping[str, Any],
) -> FloatArray:
    """Fit the trainer's regressor to X and `watts`. Return the power that it predicts for each row of `new_X`.

    Each column is divided by its maximum, as in every training.
    """
    largest = np.abs(X).max(axis=0)
    scale = np.where(largest > 0, largest, 1.0)
    task = FitTask(COMPONENT, features, LOAD, "AbsPower", 0, tuple(map(float, scale)))
    regressor = registry.trainers.create(trainer, arguments).regressor(task).fit(X / scale, watts)
    result: FloatArray = np.maximum(regressor.predict(new_X / scale), 0.0)
    return result


def interval_factors(
    machines: Sequence[MeasuredMachine],
    nodes: Sequence[str],
    rows: MachineRows,
    terms: IntervalTerms,
    trainer: str,
    arguments: Mapping[str, Any],
) -> IntervalFactors:
    """Measure the factors `known` and `newer`.

    `terms` determine the interval of a prediction. `nodes` has the node name of each machine.
    """

    from kepler_core.pipeline.interval_terms import calibration  # imports SciPy, which only trainings have

    def factor(tested: BoolArray, watts: FloatArray, groups: IntArray) -> float:
        half = half_width(terms, watts[tested], np.zeros(int(tested.sum()), dtype=bool), SAME_TYPE)
        measured = calibration(np.abs(watts - rows.watts)[tested], half, groups[rows.machine[tested]])
        return min(max(measured, 1 / _MAX_FACTOR), _MAX_FACTOR)

    processors = [processor_of(one.description) for one in machines]
    configuration = _numbers([one.description for one in machines])
    watts = np.full(len(rows.watts), np.nan)
    tested = np.zeros(len(rows.watts), dtype=bool)
    for fold in range(FOLDS):
        is_held_out = configuration % FOLDS == fold
        remaining = {one for one, out in zip(processors, is_held_out, strict=True) if not out and one is not None}
        is_tested = is_held_out & np.array([one in remaining for one in processors])
        if not is_tested.any() or is_held_out.all():
            continue
        watts[is_held_out[rows.machine]] = rows.predicted(is_held_out[rows.machine], trainer, arguments)
        tested |= is_tested[rows.machine]
    known = min(factor(tested, watts, configuration), 1.0) if tested.any() else 1.0
    node = _numbers(nodes)
    is_newer, newer = _newest(rows, node), None
    if is_newer is not None:
        watts[is_newer] = rows.predicted(is_newer, trainer, arguments)
        newer = max(factor(is_newer, watts, node), 1.0)
    return IntervalFactors(1, sorted({one for one in processors if one is not None}), known, newer)


def _numbers(values: Sequence[object]) -> IntArray:
    """Number the different values in the order of their first occurrence. Return the number of each value."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])


def _newest(rows: MachineRows, nodes: IntArray) -> BoolArray | None:
    """Return which rows belong to machines of the newest years.

    `nodes` has the number of each machine's node. The result is None if there are too few years, machines or nodes.
    """
    from kepler_core.pipeline.interval_terms import MIN_CALIBRATION_NODES

    year = rows.X[:, rows.features.index(YEAR)]
    count = len(nodes)
    for last in np.unique(year)[-2::-1]:
        newer: BoolArray = year > last
        machines = np.unique(rows.machine[newer])
        if len(machines) >= NEWER_PART * count and len(np.unique(nodes[machines])) >= MIN_CALIBRATION_NODES:
            return newer if count - len(machines) >= MIN_OLDER_MACHINES else None
    return None


@attrs.frozen(eq=False)
class FactorListener:
    """Listener that measures `IntervalFactors` of a trained model, and adds them to the pipeline as `FILE`."""

    machines: Sequence[MeasuredMachine]
    nodes: Sequence[str]
    rows: MachineRows
    trainer: str
    arguments: Mapping[str, Any]

    @hookimpl
    def kepler_publishing(self, files: dict[str, bytes], evidence: Sequence[Any]) -> None:
        """Add `FILE` to the pipeline if a model was trained."""
        for one in evidence:
            honesty = read_honesty(one.metadata)
            if honesty is not None and COMPONENT in honesty.intervals:
                factors = interval_factors(
                    self.machines, self.nodes, self.rows, honesty.intervals[COMPONENT], self.trainer, self.arguments
                )
                files[FILE] = msgspec.json.encode(factors)
