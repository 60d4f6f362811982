"""Names from strangers, in messages of one line."""

from __future__ import annotations


def printable(name: str) -> str:
    """A metric's name as it may stand in a message."""
    return name if name.isprintable() and len(name) <= 200 else ascii(name)[:200]
