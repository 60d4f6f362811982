"""The recordings of the command `train`, read into observations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kepler_core.cli.inputs import open_all
from kepler_core.errors import UsageError

if TYPE_CHECKING:
    from kepler_core.machine import Machine
    from kepler_core.pipeline.parallel import Backend
    from kepler_core.pipeline.spec import PipelineSpec
    from kepler_core.recording.observations import Observations


def check_part_options(inputs: tuple[str, ...], part_samples: int | None, sample_rows: int | None) -> None:
    """Raise `UsageError` if an option for recordings in Parquet is used, but none of the recordings is in Parquet."""
    from kepler_core.parquet import is_parquet

    values = {"--part-samples": part_samples, "--sample-rows": sample_rows}
    used = [option for option, value in values.items() if value]
    if used and not any(map(is_parquet, inputs)):
        raise UsageError(f"{used[0]} needs a recording in Parquet (--input NAME.parquet)")


def observe_recordings(
    spec: PipelineSpec,
    inputs: tuple[str, ...],
    *,
    machine: Machine | None,
    metric_prefix: str | None,
    part_samples: int | None,
    sample_rows: int | None,
    backend: Backend,
    scheduler: str | None,
    jobs: int | None,
) -> Observations:
    """Read recordings, and return their observations for the training of a pipeline.

    If a recording is in Parquet, the result has only a random sample of the observations, with at most `sample_rows`
    rows. A pipeline with `vm_guests` gets all observations.
    """
    from kepler_core.pipeline.observing import observe_for
    from kepler_core.pipeline.part_sampling import SAMPLE_ROWS, observe_sample
    from kepler_core.recording import RecordingParts

    recordings = open_all(inputs, spec.third_party, metric_prefix, part_samples)
    if spec.vm_guests or not any(isinstance(recording, RecordingParts) for recording in recordings):
        return observe_for(spec, recordings, machine)
    most = sample_rows or SAMPLE_ROWS
    observations, n_all = observe_sample(
        spec, recordings, machine, max_rows=most, backend=backend, scheduler=scheduler, jobs=jobs
    )
    if (n_kept := len(observations.sample_time)) < n_all:
        click.echo(
            f"kepler-model: trained on a sample of {n_kept} of {n_all} timestamps of nodes; all errors are measured "
            "on this sample (--sample-rows)",
            err=True,
        )
    return observations
