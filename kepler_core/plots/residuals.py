"""The panel of residuals: the errors of predictions, drawn over the load of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.plots.canvas import COLOURS, MEASURED, PREDICTED, Panel, grid
from kepler_core.plots.panels import CURVE_BINS, MAX_POINTS, binned, short_number

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

_COLUMNS = 2
_PLOT_INCHES = 2.6


@attrs.frozen(eq=False)
class Residuals:
    """The errors of one component's predictions."""

    component: str
    feature: str
    unit: str
    load: FloatArray
    """Values of `feature` (the feature that shows the load), shape (samples,)."""
    residual: FloatArray
    """Predicted − measured watts, shape (samples,)."""


def residual_panel(subtitle: str, residuals: Sequence[Residuals]) -> Panel:
    """Return a panel of predicted − measured power against load: a point for each sample, and the mean error.

    The mean error is calculated in `CURVE_BINS` groups of samples with similar load.
    """

    def draw(part: SubFigure) -> None:
        plots = grid(part, -(-len(residuals) // _COLUMNS), _COLUMNS)
        for plot in plots[len(residuals) :]:
            plot.set_axis_off()
        for one, plot in zip(residuals, plots, strict=False):
            shown = slice(None, None, max(1, -(-len(one.load) // MAX_POINTS)))
            plot.axhline(0, color=MEASURED, lw=1, ls="--")
            plot.plot(one.load[shown], one.residual[shown], ".", ms=4, mew=0, alpha=0.35, color=COLOURS[0])
            plot.plot(*binned(one.load, one.residual), color=PREDICTED, lw=1.6)
            limit = 1.1 * float(np.abs(one.residual).max(initial=0)) or 1.0
            plot.set(
                ylim=(-limit, limit),
                xlabel=f"{one.feature} ({one.unit})",
                ylabel="predicted − measured (W)",
                title=one.component,
            )
            plot.xaxis.set_major_formatter(short_number)

    height = _PLOT_INCHES * -(-len(residuals) // _COLUMNS)
    return Panel("Errors against load", f"{subtitle}; line: mean of {CURVE_BINS} groups of similar load", height, draw)
