"""Times in messages."""

from __future__ import annotations

import datetime


def utc(seconds: float) -> str:
    """Return a time in Unix seconds as "YYYY-MM-DD hh:mm:ss" in UTC."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"
