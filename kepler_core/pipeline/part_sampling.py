"""Observe recordings part by part, and keep a sample of the observations.

Each part is read, observed and reduced to a sample by itself: in this process, in worker processes or on a Dask
cluster. So no process needs more memory than one part and the sample need.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait

import attrs

from kepler_core.errors import RecordingError
from kepler_core.machine import Machine
from kepler_core.pipeline.observing import observe_for
from kepler_core.pipeline.parallel import Backend, executor, usable_cpus
from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.plugins.hooks import hooks
from kepler_core.recording import Observations, Recording, RecordingParts
from kepler_core.recording.assemble import observe_part, refuse_repeated, schemas_of
from kepler_core.recording.parts import Part, WholeRecording
from kepler_core.recording.section_sample import SectionSample

SAMPLE_ROWS = 2_000_000
"""Number of rows that are kept; they need about 300 MB of memory. A row is a container or a node at a timestamp."""


@attrs.frozen(eq=False)
class _Task:
    """A part of a recording, with everything that another process needs to observe this part."""

    spec: PipelineSpec
    whole: WholeRecording
    part: Part
    cpus: int | None
    max_rows: int
    rows_per_stratum: float
    """Upper limit of the number of rows of a stratum (rows of one node with similar load). It comes from the parts that
    were observed before."""


def observe_sample(
    spec: PipelineSpec,
    recordings: Sequence[Recording | RecordingParts],
    machine: Machine | None = None,
    *,
    max_rows: int = SAMPLE_ROWS,
    backend: Backend = "loky",
    scheduler: str | None = None,
    jobs: int | None = None,
) -> tuple[Observations, int]:
    """Return the observations of a sample of recordings, and the number of samples (node × timestamp) in all of them.

    The sample is `kepler_core.recording.section_sample`. It depends on the recordings, `max_rows` and the seed of the
    pipeline, but not on the parts or the number of `jobs`. A recording in memory is a single part. Raises
    `RecordingError` as `kepler_core.recording.observe` does.
    """
    refuse_repeated(recordings)
    cpus = None if machine is None or spec.use_vm_metrics else machine.spec.cores
    sample = SectionSample(max_rows, spec.seed)
    parts = []
    for recording in recordings:
        if isinstance(recording, Recording):
            sample.add(observe_for(spec, [recording], machine))
        else:
            schemas_of(recording)  # raises an error now if no metric of the recording is known
            parts += [_Task(spec, recording.whole, part, cpus, max_rows, 0.0) for part in recording.parts]
    workers = min(jobs or usable_cpus(), len(parts))
    if workers > 1 or (backend == "dask" and parts):
        with executor(backend, scheduler, jobs or usable_cpus() if backend == "dask" else workers) as pool:
            _observe_in(pool, parts, sample, 2 * workers)
    else:
        for task in parts:
            _observe_into(sample, task)
    return sample.observations([recording.digest for recording in recordings]), sample.n_samples


def _observe_in(pool: Executor, parts: Sequence[_Task], sample: SectionSample, most: int) -> None:
    """Observe parts with an executor, at most `most` at a time, and add the results to `sample`."""
    waiting = iter(parts)
    running: set[Future[SectionSample]] = set()
    try:
        while True:
            for task in _first(waiting, most - len(running)):
                limited = attrs.evolve(task, rows_per_stratum=sample.rows_per_stratum)
                running.add(pool.submit(_observed, limited))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                sample.merge(future.result())
    except BrokenExecutor as error:
        raise RecordingError(
            "a process ended while it read a part of the recording; if it had too little memory, use fewer --jobs or "
            "smaller --part-samples"
        ) from error
    finally:
        for future in running:
            future.cancel()


def _first(tasks: Iterator[_Task], n: int) -> list[_Task]:
    return [task for _, task in zip(range(n), tasks, strict=False)]


def _observed(task: _Task) -> SectionSample:
    """Observe one part of a recording. The function is called in another process."""
    sample = SectionSample(task.max_rows, task.spec.seed)
    _observe_into(sample, task)
    sample.reduce(task.rows_per_stratum)
    return sample


def _observe_into(sample: SectionSample, task: _Task) -> None:
    recording = task.part.read()
    hooks().call("kepler_recording_loaded", recording=recording)
    observations = observe_part(
        recording,
        task.whole,
        use_vm_metrics=task.spec.use_vm_metrics,
        third_party=task.spec.third_party,
        cpus=task.cpus,
    )
    if observations is not None:
        sample.add(observations, task.part.start, task.part.end)
