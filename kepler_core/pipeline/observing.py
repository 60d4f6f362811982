"""The observations that a pipeline trains from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from kepler_core.machine import Machine
from kepler_core.parquet import PART_SAMPLES, is_parquet, open_parts
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.recording import Observations, Recording, RecordingParts, observe, read_recording
from kepler_core.recording.schemas import is_used_metric


def read_for(
    spec: PipelineSpec, source: str | Path | bytes | Mapping[str, Any], *, name: str | None = None
) -> Recording:
    """Read a recording; keep the samples of all metrics that the pipeline can use."""
    return read_known(source, spec.third_party, name=name)


def observe_for(
    spec: PipelineSpec, recordings: Sequence[Recording | RecordingParts], machine: Machine | None = None
) -> Observations:
    """Read recordings into observations, with the pipeline's keys `use_vm_metrics`, `third_party` and `vm_guests`.

    With `use_vm_metrics`, power is the power of virtual machines, otherwise the power of nodes. Use this function
    for recordings of the idle machine, too, so that idle power and power under load are of the same kind.
    CPU time that exceeds the CPUs of `machine` is left out.
    """
    # `machine` describes the host. Its number of CPUs is no bound for a virtual machine, which has CPUs of its own.
    cpus = None if machine is None or spec.use_vm_metrics else machine.spec.cores
    return observe(
        recordings,
        use_vm_metrics=spec.use_vm_metrics,
        third_party=spec.third_party,
        cpus=cpus,
        vm_guests=spec.vm_guests,
    )


def open_known(
    source: str,
    third_party: Collection[str] = (),
    *,
    metric_prefix: str | None = None,
    part_samples: int | None = None,
) -> Recording | RecordingParts:
    """Open a recording as `read_known` does. A Parquet recording is read later, in parts: when `observe` needs it."""
    if not is_parquet(source):
        return read_known(source, third_party, metric_prefix=metric_prefix)
    return open_parts(
        source,
        wanted=_is_wanted(third_party, metric_prefix),
        metric_prefix=metric_prefix,
        part_samples=part_samples or PART_SAMPLES,
    )


def read_known(
    source: str | Path | bytes | Mapping[str, Any],
    third_party: Collection[str] = (),
    *,
    name: str | None = None,
    metric_prefix: str | None = None,
) -> Recording:
    """Read a recording; keep the samples of metrics in `third_party`, and of metrics that a metric schema knows.

    `metric_prefix` is the first word of the exporter's metric names; None stands for the word that the schema expects.
    """
    wanted = _is_wanted(third_party, metric_prefix)
    if isinstance(source, str | Path) and is_parquet(source):
        (recording,) = open_parts(source, wanted=wanted, part_samples=None).read()
        return attrs.evolve(recording, name=name or recording.name, metric_prefix=metric_prefix)
    return attrs.evolve(read_recording(source, name=name, wanted=wanted), metric_prefix=metric_prefix)


def _is_wanted(third_party: Collection[str], metric_prefix: str | None) -> Callable[[str], bool]:
    return lambda metric: metric in third_party or is_used_metric(metric, metric_prefix)
