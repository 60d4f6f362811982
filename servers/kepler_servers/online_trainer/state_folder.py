"""The layout of the folder in which an online trainer keeps its state."""

from __future__ import annotations

from pathlib import Path

import attrs


@attrs.frozen
class StateFolder:
    """The state folder of one online trainer, which no other online trainer is allowed to use.

    Some names are older than the terms in the code: the sample store is in the folder `memory`, the log of
    power shifts in the file `laws.json`. In metrics, JSON keys and recorded decisions, a sample is called an
    `instant` and a power shift a `law_change`. These names do not change, because users depend on them.
    """

    path: Path

    @property
    def samples(self) -> Path:
        """Folder of the sample store."""
        return self.path / "memory"

    @property
    def shifts(self) -> Path:
        """File with the power shifts that were found (`ShiftLog`)."""
        return self.path / "laws.json"

    @property
    def challengers(self) -> Path:
        """Folder of a model store with the challengers of the latest retrainings."""
        return self.path / "challengers"
