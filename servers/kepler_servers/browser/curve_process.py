"""A process that loads one stored model and computes its power curve.

The model server starts this process, so that a model from a foreign store can neither fill the memory of the server nor
delay its answers. It reads the model's zip file from the standard input, and writes a `Curve` as JSON to the standard
output. If the model cannot be evaluated, it writes a `Curve` with the reason.
"""

from __future__ import annotations

import os
import resource
import sys

import msgspec

MAX_ARCHIVE_BYTES = 64 * 2**20
"""Maximum size of a model's zip file whose curve is drawn."""
CPU_SECONDS = 10
"""Limit of the CPU time of the process, in seconds."""
MEMORY_BYTES = 2 * 2**30
"""Limit of the address space of the process. Most of it is reserved by libraries and never used."""
POINTS = 41
"""Number of points of the curve, evenly spaced from idle to full load."""


class ComponentCurve(msgspec.Struct):
    """The power of one component along the curve."""

    watts: list[float]
    half_width: list[float] | None = None
    """Half-widths of the intervals in watts on the machine of the training; None if the model has no interval."""


class Curve(msgspec.Struct):
    """The power of each component while all features rise together from their lowest to their highest values."""

    feature: str = ""
    """The feature on the x axis: the one that says most about the load."""
    x: list[float] = []
    """Values of the feature."""
    components: dict[str, ComponentCurve] = {}
    trained_range: bool = False
    """Whether the model states the lowest and highest values of its training. Otherwise features rise from 0."""
    level: float = 0.9
    reason: str = ""
    """Why there is no curve; empty if there is one."""


def curve_of(archive: bytes) -> Curve:
    """Return the power curve of the model in a zip file."""
    import numpy as np

    from kepler_core.errors import KeplerError
    from kepler_core.honesty.document import read_honesty
    from kepler_core.honesty.interval import SAME_MACHINE, half_widths
    from kepler_core.models.loading import load_model
    from kepler_core.store.model_archive import ModelArchive
    from kepler_core.vocabulary import load_feature

    try:
        model = load_model(ModelArchive(archive, "the model"), "the model", resident=True)
        honesty = read_honesty(model.metadata)
        lowest, highest = np.zeros(len(model.features)), model.scale.copy()
        if honesty is not None:
            for at, name in enumerate(model.features):
                if name in honesty.seen.features:
                    lowest[at], highest[at] = honesty.seen.features[name]
        part = np.linspace(0.0, 1.0, POINTS)[:, None]
        X = lowest + part * (highest - lowest)
        watts = model.predict(X)
    except KeplerError as error:
        return Curve(reason=str(error))
    halves = {} if honesty is None else half_widths(honesty, watts, np.zeros(POINTS, dtype=bool), SAME_MACHINE)
    feature = load_feature(model.features)
    return Curve(
        feature=feature,
        x=X[:, model.features.index(feature)].tolist(),
        components={
            name: ComponentCurve(values.tolist(), halves[name].tolist() if name in halves else None)
            for name, values in watts.items()
        },
        trained_range=honesty is not None,
        level=0.9 if honesty is None else honesty.level,
    )


def main() -> None:
    """Read the zip file, and write the curve."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(10)
    curve = curve_of(sys.stdin.buffer.read(MAX_ARCHIVE_BYTES + 1))
    sys.stdout.buffer.write(msgspec.json.encode(curve))


if __name__ == "__main__":
    main()
