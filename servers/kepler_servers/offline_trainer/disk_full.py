"""Recognize errors that occur because a file cannot grow, e.g. because the disk is full."""

from __future__ import annotations

import errno
import sqlite3


def is_disk_full(error: BaseException | None) -> bool:
    """Return whether an error or one of its causes reports a full disk, an exhausted quota or a file size limit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            return True
        error = error.__cause__
    return False
