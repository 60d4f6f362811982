"""Readings and scripted power sources for tests of the meter."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from kepler_core.metering import Observation, Power, Provenance, Reading

FORMULA = Provenance("formula", "machine-formula", "1", "estimated from the processor")
MEASURED = Provenance("measured", "powercap")


def reading(provenance: Provenance = FORMULA, **watts: float) -> Reading:
    """Return a reading with the watts `watts` of components. The interval of each component is ± 10 %."""
    power = {component: Power(value, 0.9 * value, 1.1 * value) for component, value in watts.items()}
    return Reading(time=time.time(), power=power, provenance=provenance)


def files_below(folder: Path) -> dict[str, str]:
    """Return the contents of the files below a folder by path, without hidden files and dangling links."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def zones_of(root: Path) -> dict[str, int]:
    """Return the energy counters in a powercap folder, in microjoules, by the name of the zone."""
    return {
        path.read_text().strip(): int((path.parent / "energy_uj").read_text())
        for path in (root / "class" / "powercap").glob("*/name")
    }


class ScriptedSource:
    """A power source whose readings come from the function `read`."""

    problems = ()

    def __init__(self, read: Callable[[Observation], Reading]) -> None:
        self.reading = read
