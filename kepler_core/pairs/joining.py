"""Join the recordings of a host and of a guest: one row per window with features of the guest and watts of the
target."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.errors import RecordingError
from kepler_core.pairs.alignment import Alignment
from kepler_core.pairs.guest import GuestUsage
from kepler_core.pairs.host import HostWindows
from kepler_core.tables.table import Table
from kepler_core.vocabulary import Target, in_component_order


@attrs.frozen(eq=False)
class Pair:
    """A host and a guest, with the offset between their clocks."""

    host: HostWindows
    guest: GuestUsage
    alignment: Alignment
    target: Target
    names: tuple[str, str]
    """Names of the recordings of host and guest."""
    digests: tuple[str, str]
    """SHA-256 of the recordings of host and guest."""

    def description(self) -> dict[str, Any]:
        """Return a short description of the host and the guest, for the metadata of a pipeline."""
        return {
            "host": self.names[0],
            "guest": self.names[1],
            "vm": self.host.vm,
            "target": self.target,
            "watts_from": self.host.basis,
            "offset_seconds": self.alignment.offset,
            "offset_interval": [round(self.alignment.lower, 3), round(self.alignment.upper, 3)],
            "offset_estimated": self.alignment.estimated,
            "windows": len(self.host.end),
            "repeated_timestamps": round(self.host.repeats, 3),
            "left_out": dict(self.host.left_out),
        }

    def lines(self) -> list[str]:
        """Return messages about the host and the guest for the user, one line each."""
        seconds = float(np.median(self.host.end - self.host.start))
        left_out = ", ".join(f"{count} ({reason})" for reason, count in self.host.left_out.items()) or "none"
        return [
            f"{self.names[0]}: {self.alignment}",
            f"{self.names[0]}: {len(self.host.end)} windows of about {seconds:.1f} s, from {self.host.basis}; "
            f"{100 * self.host.repeats:.0f} % of the readings were repeats; windows left out: {left_out}",
            *(f"{self.names[0]}: {note}" for note in self.host.notes),
        ]


def pair_table(pair: Pair) -> Table:
    """Return one row per window of the host: the guest's features, averaged over the window, and the target's watts.

    Windows for which no feature of the guest is known are left out. The times in the table are times of the host's
    clock. Raises `RecordingError` if no window remains.
    """
    host, offset = pair.host, pair.alignment.offset
    features = {name: pair.guest.means(name, host.start - offset, host.end - offset) for name in pair.guest.features}
    kept = np.any([np.isfinite(values) for values in features.values()], axis=0)
    if not kept.any():
        raise RecordingError("no window of the host is in the recording of the guest", document=pair.names[0])
    name = f"{pair.names[0]} with {pair.names[1]}"
    rows = int(kept.sum())
    return Table(
        name=name,
        digest=hashlib.sha256("+".join(pair.digests).encode()).hexdigest(),
        rows=rows,
        recording=[name] * rows,
        node=[pair.guest.node or host.vm] * rows,
        time=host.end[kept],
        container=None,
        container_name=None,
        features=_only(features, kept),
        power=_only({name: host.watts[name] for name in in_component_order(host.watts)}, kept),
        columns={},
        dynamic=False,
        unused=(),
        place=lambda row: f"window {row + 1}",
    )


def _only(columns: Mapping[str, FloatArray], kept: Any) -> dict[str, FloatArray]:
    return {name: values[kept] for name, values in columns.items()}
