"""The layout of an online trainer's state folder."""

from __future__ import annotations

from pathlib import Path

import attrs


@attrs.frozen
class StateFolder:
    """One folder that belongs to one online trainer.

    The names on disk are older than the terms in the code: the sample store is in `memory`, the log of
    power shifts in `laws.json`. The same holds for the metrics, the JSON keys and the recorded
    decisions, where a sample is an `instant` and a power shift a `law_change`. They are stable because
    users depend on them.
    """

    path: Path

    @property
    def samples(self) -> Path:
        """The folder of the sample store."""
        return self.path / "memory"

    @property
    def shifts(self) -> Path:
        """The file of the shift log."""
        return self.path / "laws.json"

    @property
    def challengers(self) -> Path:
        """A model store with the challengers of the latest retrainings."""
        return self.path / "challengers"
