"""Remove input files, result files and jobs whose retention time is over."""

from __future__ import annotations

import logging
import os
import time

from kepler_core.atomic_files import flush_folder, make_folders
from kepler_servers.offline_trainer.jobs import Jobs
from kepler_servers.offline_trainer.settings import Settings, StateFolder

log = logging.getLogger(__name__)


def remove_expired(jobs: Jobs, folder: StateFolder, settings: Settings) -> None:
    """Remove expired input files, and expired jobs with their zips.

    An input file expires `keep_inputs` seconds after the end of its job, and a job expires `keep_results` seconds after
    its end.
    """
    now = time.time()
    for job in jobs.finished_before(now - settings.keep_inputs, with_input=True):
        folder.input(job).unlink(missing_ok=True)
        jobs.mark_input_removed(job)
    for job in jobs.finished_before(now - settings.keep_results, with_input=False):
        folder.input(job).unlink(missing_ok=True)
        folder.result(job).unlink(missing_ok=True)
        jobs.remove(job)


def set_unknown_files_aside(jobs: Jobs, folder: StateFolder) -> None:
    """Remove incomplete files of an earlier run. Move input and result files without a job to the folder `set_aside`.

    Input and result files are not removed, because their jobs may be missing only because the queue was lost or
    restored from a backup.
    """
    ids = jobs.ids()
    unknown = []
    for file in (*folder.incoming.iterdir(), *folder.spool.iterdir(), *folder.results.iterdir()):
        if file.parent == folder.incoming or file.suffix not in (".json", ".zip"):
            file.unlink(missing_ok=True)
        elif file.stem not in ids:
            unknown.append(file)
    if not unknown:
        return
    try:
        make_folders(folder.set_aside, 0o700)
        for file in unknown:
            os.rename(file, folder.set_aside / file.name)
        flush_folder(folder.set_aside)
    except OSError as error:
        log.warning("files without a job cannot be moved to %s: %s", folder.set_aside, error)
    else:
        log.warning("moved %d files whose jobs are not in the queue to %s", len(unknown), folder.set_aside)
