"""Run fits in parallel: in threads, in processes or on a Dask cluster."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from typing import Literal

import joblib
from joblib.externals.loky import ProcessPoolExecutor
from threadpoolctl import threadpool_limits

from kepler_core.errors import MissingExtraError, UsageError
from kepler_core.parent_watch import end_with
from kepler_core.pipeline.fit import FitJob, FitResult, fit
from kepler_core.plugins import registry
from kepler_core.plugins.settings import OWN

Backend = Literal["loky", "threading", "dask"]


def usable_cpus() -> int:
    """Return the number of CPUs that this process may use.

    A container's CPU limit, the CPU affinity of the process and the environment variable LOKY_MAX_CPU_COUNT can make
    this number smaller than the number of CPUs of the machine.
    """
    return int(joblib.cpu_count())


def _numbered(index: int, job: FitJob) -> tuple[int, FitResult]:
    return index, fit(job)


def _numbered_in_worker(index: int, job: FitJob, parent: int) -> tuple[int, FitResult]:
    """Run a fit in a process that the process `parent` has started."""
    end_with(parent)
    return _numbered(index, job)


def fit_all(
    work: Sequence[FitJob], backend: Backend, scheduler: str | None, jobs: int | None
) -> Iterator[tuple[int, FitResult]]:
    """Fit all jobs of `work`; yield each result as soon as it is ready, with the index of its job.

    `jobs` is the number of fits that run at the same time; None means `usable_cpus()`.
    """
    # A limit of threadpoolctl applies to the whole process. If each thread set its own limit, the first thread to
    # finish would remove the limit for the other threads.
    if backend == "threading" or jobs == 1:
        with threadpool_limits(1):
            yield from _results(work, backend, scheduler, jobs)
    else:
        yield from _results(work, backend, scheduler, jobs)


def _results(
    work: Sequence[FitJob], backend: Backend, scheduler: str | None, jobs: int | None
) -> Iterator[tuple[int, FitResult]]:
    with _backend(backend, scheduler, jobs):
        if backend == "dask":
            # joblib's Dask backend does not support return_as="generator_unordered"
            yield from joblib.Parallel(n_jobs=-1)(joblib.delayed(_numbered)(*numbered) for numbered in enumerate(work))
            return
        n_jobs = min(jobs or usable_cpus(), len(work))
        if n_jobs == 1 and backend == "loky" and not all(_is_own(job) for job in work):
            yield from _in_another_process(work)
            return
        if n_jobs == 1:
            yield from (_numbered(index, job) for index, job in enumerate(work))
            return
        remaining = dict(enumerate(work))
        calls = (joblib.delayed(_numbered_in_worker)(*numbered, os.getpid()) for numbered in enumerate(work))
        try:
            for index, result in joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered", max_nbytes=None)(
                calls
            ):
                del remaining[index]
                yield index, result
        except BrokenExecutor:
            # One of the remaining fits made its worker process exit, but joblib does not report which fit did.
            numbers = list(remaining)
            for index, result in _in_another_process(list(remaining.values())):
                yield numbers[index], result


@contextlib.contextmanager
def executor(backend: Backend, scheduler: str | None, workers: int) -> Iterator[Executor]:
    """Provide an executor that calls functions in processes, in threads or on a Dask cluster."""
    if backend == "threading":
        with ThreadPoolExecutor(workers) as threads:
            yield threads
    elif backend == "dask":
        with _backend(backend, scheduler, workers):
            import distributed

            with distributed.get_client().get_executor(pure=False) as cluster:
                yield cluster
    else:
        processes = _processes(workers)
        try:
            yield processes
        finally:
            processes.shutdown(kill_workers=True)  # frees the memory of the workers; Ctrl-C need not wait for them


def _processes(workers: int) -> ProcessPoolExecutor:
    """Return an executor whose worker processes end with this process."""
    return ProcessPoolExecutor(max_workers=workers, initializer=end_with, initargs=(os.getpid(),))


def _is_own(job: FitJob) -> bool:
    """Return whether the trainer belongs to Kepler Core. Such a trainer never makes its process exit."""
    return registry.trainers.entry(job.trainer).distribution == OWN


def _in_another_process(work: Sequence[FitJob]) -> Iterator[tuple[int, FitResult]]:
    """Run the fits one by one in a separate process; start a new process if a fit makes the process exit."""
    remaining = list(enumerate(work))
    while remaining:
        processes = _processes(1)
        try:
            while remaining:
                index, job = remaining.pop(0)
                try:
                    result = processes.submit(fit, job).result()
                except BrokenExecutor:
                    yield index, FitResult(job.key, None, {}, "it ended the process in which it was fitted")
                    break
                yield index, result
        finally:
            processes.shutdown(kill_workers=True)  # otherwise, Ctrl-C would wait for the running fit


@contextlib.contextmanager
def _backend(backend: Backend, scheduler: str | None, jobs: int | None) -> Iterator[None]:
    """Configure joblib for a backend; for Dask, connect to the scheduler or start a local cluster."""
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
                n_workers=jobs or usable_cpus(),
                threads_per_worker=1,
                processes=True,
                dashboard_address=":0",  # any free port: Dask's default may be in use by another cluster
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
