"""Draw the plots of `docs/machine-formula.md` as SVG files. The same table gives the same files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kepler_core.plots.canvas import MEASURED, PREDICTED, Panel, picture
from machine_formula_run.evaluation import Judged
from machine_formula_run.fitting import MIDDLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure


def write_plots(judged: Judged, by_idle: Judged, folder: Path) -> None:
    """Draw the errors on the split `group5`, and write the plots into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    about = "held-out configurations, split group5"
    panels = {
        "errors": (
            "Mean error of the machine formula by load",
            about,
            2.8,
            lambda axes: _errors(axes, judged, by_idle),
        ),
        "years": ("Measured ÷ estimated power by year of the hardware", about, 3.2, lambda axes: _years(axes, judged)),
    }
    for name, (title, subtitle, height, draw) in panels.items():
        panel = Panel(title, subtitle, height, _drawn(draw))
        (folder / f"machine-formula-{name}.svg").write_bytes(picture([panel], "svg"))


def _drawn(draw: Callable[[Axes], None]) -> Callable[[SubFigure], None]:
    return lambda subfigure: draw(subfigure.subplots())


def _errors(axes: Axes, judged: Judged, by_idle: Judged) -> None:
    loads = np.arange(0, 101, 10)
    for one, colour, label in ((judged, PREDICTED, "idle power unknown"), (by_idle, MEASURED, "idle power known")):
        axes.plot(loads, 100 * np.abs(1 / one.ratio - 1).mean(axis=0), color=colour, marker="o", label=label)
    axes.set(xlabel="load in %", ylabel="MAPE in %", ylim=(0, None))
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _years(axes: Axes, judged: Judged) -> None:
    middle = judged.ratio[:, MIDDLE]
    amd = np.array([vendor == "amd" for vendor in judged.vendors])
    for chosen, colour, label in ((~amd, PREDICTED, "Intel"), (amd, MEASURED, "AMD")):
        years = np.array(judged.years)[chosen] + _spread(int(chosen.sum()))
        axes.scatter(years, middle[chosen], color=colour, s=9, alpha=0.6, linewidths=0, label=f"{label}, 50 % load")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xlabel="year of the hardware", ylabel="measured ÷ estimated", yscale="log")
    axes.set_yticks([0.5, 0.7, 1.0, 1.4, 2.0], ["0.5", "0.7", "1", "1.4", "2"])
    axes.minorticks_off()
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _spread(count: int) -> Sequence[float]:
    """Return small, evenly spaced shifts, so that points of one year do not hide each other."""
    return list((np.arange(count) * 0.618 % 1 - 0.5) * 0.6)
