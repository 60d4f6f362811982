"""Times in messages, and times that users write."""

from __future__ import annotations

import datetime


def utc(seconds: float) -> str:
    """Return a time in Unix seconds as "YYYY-MM-DD hh:mm:ss" in UTC."""
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g} s"


def unix_seconds(text: str) -> float:
    """Parse a time in Unix seconds or ISO 8601 and return Unix seconds; a time without a time zone is in UTC.

    Raises `ValueError` if the text is no time.
    """
    try:
        return float(text)
    except ValueError:
        time = datetime.datetime.fromisoformat(text.strip())
    return (time if time.tzinfo else time.replace(tzinfo=datetime.UTC)).timestamp()
