"""Text for messages and log lines: on one line and of bounded length."""

from __future__ import annotations

from collections.abc import Sequence

QUOTED_CHARACTERS = 60
LINE_CHARACTERS = 500


def one_line(error: BaseException, limit: int | None = None) -> str:
    """Return an exception as "Type: text" on one line; the text is cut after `limit` characters."""
    text = single_line(str(error), limit)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def single_line(text: str, limit: int | None = None) -> str:
    """Return a text with runs of white space replaced by one blank, cut after `limit` characters."""
    line = " ".join(text.split())
    return line if limit is None else shortened(line, limit)


def quoted(text: object, limit: int = QUOTED_CHARACTERS) -> str:
    """Return the `repr` of a value from outside, for use in a message, cut after `limit` characters."""
    return repr(text[:limit]) if isinstance(text, str) else shortened(repr(text), limit)


def shortened(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters, with an ellipsis at the end if it was cut."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def printable(text: str, limit: int = LINE_CHARACTERS) -> str:
    """Return a text with control characters replaced by blanks, cut after `limit` characters."""
    return shortened("".join(c if c.isprintable() else " " for c in text[: limit + 1]), limit)


def reason_of(error: object, limit: int | None = None) -> str:
    """Return why an operation failed, without the error's type, cut after `limit` characters.

    For an `OSError`, this is the operating system's description. For any other error, it is the first line of the
    error's text.
    """
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines()
    text = lines[0] if lines and lines[0].strip() else type(error).__name__
    return text if limit is None else shortened(text, limit)


def first_of(texts: Sequence[str], most: int) -> str:
    """Return at most `most` texts, separated by commas, and the number of the others, e.g. "a, b and 3 more"."""
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
