"""Removal of inputs, results and jobs that are no longer kept."""

from __future__ import annotations

import time

from kepler_servers.offline_trainer.jobs import Jobs
from kepler_servers.offline_trainer.settings import Settings, StateFolder


def remove_expired(jobs: Jobs, folder: StateFolder, settings: Settings) -> None:
    """Remove the inputs of jobs after `keep_inputs`, and the jobs with their zips after `keep_results`."""
    now = time.time()
    for job in jobs.finished_before(now - settings.keep_inputs, with_input=True):
        folder.input(job).unlink(missing_ok=True)
        jobs.mark_input_removed(job)
    for job in jobs.finished_before(now - settings.keep_results, with_input=False):
        folder.input(job).unlink(missing_ok=True)
        folder.result(job).unlink(missing_ok=True)
        jobs.remove(job)


def remove_unknown_files(jobs: Jobs, folder: StateFolder) -> None:
    """Remove files that belong to no job: a server was killed while it received a request or removed a job."""
    ids = jobs.ids()
    for directory in (folder.incoming, folder.spool, folder.results):
        for file in directory.iterdir():
            if file.stem not in ids or file.suffix not in (".json", ".zip"):
                file.unlink(missing_ok=True)
