"""Check the store, the online trainer's state and the logs after a chaos run."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path

import attrs
from support.process import DEFECTS

from chaos_run.ledger import Ledger
from chaos_run.publisher import PIPELINE, serial_of_weights
from chaos_run.servers import LIVE_PIPELINE, Places
from kepler_core.errors import KeplerError
from kepler_core.store.local import LocalStore

_WHITE_SPACE = re.compile(r"\s+")


@attrs.define(eq=False)
class StoredFiles:
    """Versions in the store and samples in the online trainer's state, which must not disappear once they exist."""

    places: Places
    ledger: Ledger
    store: LocalStore = attrs.field(init=False)
    live_versions: set[int] = attrs.field(factory=set)
    """Versions of the online trainer's pipeline that the store has had so far."""
    samples: set[tuple[str, float]] = attrs.field(factory=set)
    """The (node, time) pairs of the samples that the online trainer has stored."""
    lost_samples: int = 0

    def __attrs_post_init__(self) -> None:
        self.store = LocalStore(self.places.store)

    def note(self) -> None:
        """Remember the online trainer's versions and samples, and check that earlier samples still exist."""
        with contextlib.suppress(KeplerError):
            current = self.store.current_version(LIVE_PIPELINE)
            self.live_versions |= set(range(1, (current or 0) + 1))
        if self.places.online_state.exists():
            self._note_samples()

    def _note_samples(self) -> None:
        from support.online_trainer import stored_samples

        from kepler_servers.online_trainer.sample_store import SampleStore
        from kepler_servers.online_trainer.state_folder import StateFolder

        store = SampleStore(StateFolder(self.places.online_state).samples, read_only=True)
        samples = stored_samples(store)
        if len(set(samples)) != len(samples) or store.damaged:
            self.ledger.fault("samples stored twice or damaged", str(store.damaged))
        lost = self.samples - set(samples)
        if lost:
            self.lost_samples += len(lost)
            self.ledger.fault("stored samples lost", f"{len(lost)} of {len(self.samples)}")
        self.samples |= set(samples)

    def lost_versions(self, published: Mapping[int, int]) -> int:
        """Return the number of acknowledged versions that are missing or damaged.

        `published` maps the publisher's versions to their serial numbers.
        """
        wanted: list[tuple[str, int, int | None]] = [
            *((PIPELINE, *item) for item in published.items()),
            *((LIVE_PIPELINE, version, None) for version in self.live_versions),
        ]
        lost = 0
        for pipeline, version, serial in wanted:
            problem = self._problem(pipeline, version, serial)
            if problem:
                lost += 1
                self.ledger.fault("acknowledged versions lost", f"{pipeline} {version}: {problem}")
        return lost

    def _problem(self, pipeline: str, version: int, serial: int | None) -> str:
        try:
            snapshot = self.store.snapshot(pipeline, version)
            if problems := snapshot.problems():
                return str(problems)
            if serial is None:
                return ""
            name = next(name for name in snapshot.names if name.endswith("/weight.json"))
            right = serial_of_weights(json.loads(snapshot.read(name))) == serial
            return "" if right else f"{name} has the content of another version"
        except KeplerError as error:
            return str(error)


def check_logs(folder: Path, ledger: Ledger) -> None:
    """Record a fault for each log that reports a defect of its process."""
    for path in sorted(folder.glob("*.log")):
        log = path.read_text(errors="replace")
        at = min((log.index(word) for word in DEFECTS if word in log), default=None)
        if at is not None:
            excerpt = _WHITE_SPACE.sub(" ", log[max(0, at - 200) : at + 2500])
            ledger.fault("logs with a defect", f"{path.name}: {excerpt[:250]} … {excerpt[-350:]}")
