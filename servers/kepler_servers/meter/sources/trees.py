"""List the folders of sensors, except the folders that the meter itself writes."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path


def entries_of(folder: Path, own_trees: Collection[Path], limit: int) -> list[str]:
    """Return the names in a folder in alphabetical order, at most `limit`.

    `own_trees` are the resolved paths of folders that the meter writes. The result is empty if `folder` is one of these
    folders, or if it cannot be read.
    """
    try:
        if folder.resolve() in own_trees:
            return []
        return sorted(entry.name for entry in os.scandir(folder))[:limit]
    except OSError:
        return []
