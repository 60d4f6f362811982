"""The listener that writes the audit log: a line of JSON for every change of a model store.

The setting KEPLER_AUDIT_LOG is the path of the log file. It can be an environment variable or a file in the
configuration folder. Without the setting, no log is written.
"""

from __future__ import annotations

import datetime
import getpass
import json
import os
import socket

from kepler_core.configuration import Configuration
from kepler_core.plugins.hooks import hookimpl

LOG = "KEPLER_AUDIT_LOG"


@hookimpl
def kepler_store_changed(store: str, pipeline: str, action: str, version: int) -> None:
    """Append a line to the audit log: the user, the time (UTC), the action, and the pipeline's new current version."""
    path = Configuration().text(LOG)
    if path is None:
        return
    entry = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        "user": _user(),
        "host": socket.gethostname(),
        "process": os.getpid(),
        "store": store,
        "pipeline": pipeline,
        "action": action,
        "version": version,
    }
    # Write the line with a single call in append mode, so that the lines of several processes do not mix.
    line = (json.dumps(entry) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, the user's id may belong to no user name
        return str(os.getuid())
