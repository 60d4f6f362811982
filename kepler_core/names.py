"""Names that become names of folders in a model store."""

from __future__ import annotations

import re

from kepler_core.messages import quoted

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def is_name(text: str) -> bool:
    """Return whether a text is safe as a folder's name."""
    return NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Return the name unchanged; raise `ValueError` if it is not safe as a folder's name."""
    if not is_name(name):
        raise ValueError(
            f"{quoted(name)} is not a name "
            "(letters, digits, '.', '_' and '-', at most 100, the first a letter or digit)"
        )
    return name
