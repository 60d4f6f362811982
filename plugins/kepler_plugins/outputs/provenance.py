"""The file beside published watts that states where the watts come from."""

from __future__ import annotations

from kepler_core.messages import single_line
from kepler_core.metering import Reading

FILE_NAME = "provenance"
"""Name of the file. If a folder contains this file, outputs know that a meter has made the folder."""


def provenance_text(reading: Reading) -> bytes:
    """Return the content of the file: one line for each key."""
    provenance = reading.provenance
    lines = {
        "kind": provenance.kind,
        "name": provenance.name,
        "version": provenance.version,
        "idle share": reading.idle_share,
        "description": provenance.description,
    }
    return "".join(f"{key}: {single_line(text)}\n" for key, text in lines.items() if text).encode()
