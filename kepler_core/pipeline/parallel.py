"""Fits at the same time: on threads, processes or a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from typing import Literal

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from threadpoolctl import threadpool_limits

from kepler_core.errors import MissingExtraError, UsageError
from kepler_core.pipeline.fit import FitJob, FitResult, fit
from kepler_core.plugins import registry
from kepler_core.plugins.settings import OWN

Backend = Literal["loky", "threading", "dask"]


def _numbered(index: int, job: FitJob) -> tuple[int, FitResult]:
    return index, fit(job)


def fit_all(
    work: Sequence[FitJob], backend: Backend, scheduler: str | None, jobs: int | None
) -> Iterator[tuple[int, FitResult]]:
    """Fit all; results as they come, with the index of their job."""
    # the limit is the whole process': a thread that sets it for itself would lift it for the others
    if backend == "threading" or jobs == 1:
        with threadpool_limits(1):
            yield from _results(work, backend, scheduler, jobs)
    else:
        yield from _results(work, backend, scheduler, jobs)


def _results(
    work: Sequence[FitJob], backend: Backend, scheduler: str | None, jobs: int | None
) -> Iterator[tuple[int, FitResult]]:
    calls = (joblib.delayed(_numbered)(index, job) for index, job in enumerate(work))
    with _backend(backend, scheduler, jobs):
        if backend == "dask":
            # joblib's dask backend returns all at once
            yield from joblib.Parallel(n_jobs=-1)(calls)
            return
        n_jobs = min(jobs or os.cpu_count() or 1, len(work))
        if n_jobs == 1 and backend == "loky" and not all(_is_own(job) for job in work):
            yield from _in_another_process(work)
            return
        if n_jobs == 1:
            yield from (_numbered(index, job) for index, job in enumerate(work))
            return
        left = dict(enumerate(work))
        try:
            for index, result in joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", max_nbytes=None)(
                calls
            ):
                del left[index]
                yield index, result
        except BrokenExecutor:
            # one of those that are left has ended its process, and nobody knows which
            numbers = list(left)
            for index, result in _in_another_process(list(left.values())):
                yield numbers[index], result


def _is_own(job: FitJob) -> bool:
    return registry.trainers.entry(job.trainer).distribution == OWN


def _in_another_process(work: Sequence[FitJob]) -> Iterator[tuple[int, FitResult]]:
    """One fit after the other, in another process than this one: one that ends it fails alone."""
    left = list(enumerate(work))
    while left:
        processes = ProcessPoolExecutor(max_workers=1)
        try:
            while left:
                index, job = left.pop(0)
                try:
                    result = processes.submit(fit, job).result()
                except BrokenExecutor:
                    yield index, FitResult(job.key, None, {}, "it ended the process in which it was fitted")
                    break
                yield index, result
        finally:
            processes.shutdown(kill_workers=True)  # whoever interrupts does not wait for a fit


@contextlib.contextmanager
def _backend(backend: Backend, scheduler: str | None, jobs: int | None) -> Iterator[None]:
    if backend != "dask":
        with joblib.parallel_config(backend=backend):
            yield
        return
    try:
        import distributed
    except ImportError as error:
        raise MissingExtraError("--backend dask", "dask", "distributed") from error
    if scheduler is None:
        with (
            distributed.LocalCluster(
                n_workers=jobs or os.cpu_count() or 1,
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",  # any free port: 8787 may be another cluster's
                silence_logs=logging.ERROR,
            ) as cluster,
            distributed.Client(cluster),
            joblib.parallel_config(backend="dask"),
        ):
            yield
        return
    try:
        client = distributed.Client(scheduler, timeout=10)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {scheduler}: {error}") from error
    with client, joblib.parallel_config(backend="dask"):
        yield
