"""Names that become folders of the store."""

from __future__ import annotations

import re

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_name(text: str) -> bool:
    """Whether the text is safe as a folder's name."""
    return NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """The name, if it is safe as a folder's; ValueError with what would be right."""
    if not is_name(name):
        shown = name if len(name) <= 60 else name[:57] + "..."
        raise ValueError(
            f"{shown!r} is not a name (letters, digits, '.', '_' and '-', at most 100, the first a letter or digit)"
        )
    return name
