"""The program of a process that loads one stored model and computes its power curve.

The model server starts this process, so that a model from a foreign store can neither fill the memory of the server nor
delay its answers. The process reads the model's zip file from standard input, and writes a `Curve` as JSON to standard
output. If the model cannot be evaluated, the process writes a `Curve` with the reason.
"""

from __future__ import annotations

import os
import resource
import sys

import msgspec

from kepler_core.errors import KeplerError
from kepler_core.models.loading import load_model
from kepler_core.store.model_archive import ModelArchive
from kepler_servers.browser.curve import Curve, curve_of

CPU_SECONDS = 10
"""Limit of the process' CPU time, in seconds."""
MEMORY_BYTES = 2 * 2**30
"""Limit of the process' address space. Libraries reserve most of this space, but never use it."""


def curve_in(archive: bytes) -> Curve:
    """Return the power curve of the model in a zip file."""
    try:
        return curve_of(load_model(ModelArchive(archive, "the model"), "the model", resident=True))
    except KeplerError as error:
        return Curve(reason=str(error))


def main() -> None:
    """Read a zip file from standard input, and write the curve to standard output."""
    for kind, limit in ((resource.RLIMIT_CPU, CPU_SECONDS), (resource.RLIMIT_AS, MEMORY_BYTES)):
        _, hard = resource.getrlimit(kind)
        lower = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lower, lower))
    os.nice(10)
    curve = curve_in(sys.stdin.buffer.read())
    sys.stdout.buffer.write(msgspec.json.encode(curve))


if __name__ == "__main__":
    main()
