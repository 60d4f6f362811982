"""Draw the plots of `docs/accuracy.md` as SVG files. Equal measurements give equal files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from accuracy_run.models import Comparison
from accuracy_run.tail import Tail
from kepler_core.honesty.document import SPLIT_NAMES, read_honesty
from kepler_core.plots.canvas import COLOURS, MEASURED, PREDICTED, Panel, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

LEVELS = np.linspace(0.3, 0.98, 35)
"""Levels of the intervals whose coverage the calibration plot shows, as fractions."""
INTERVAL_LEVEL = 0.9


def write_plots(tail: Tail, folder: Path) -> None:
    """Draw the results on the last 30 % of the stress-ng recording, and write the plots into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    one = tail.from_counters
    last = "last 30 % of the stress-ng recording"
    panels = {
        "tail": ("Predicted and measured package power", f"{last}; {_name(one)}", 2.6, _over_time),
        "calibration": ("Coverage of intervals by their nominal level", last, 3.2, _calibration),
        "splits": ("Stated errors by split, and the error on the last 30 %", "CounterOnly", 3.4, _splits),
        "width": ("Width of the 90 % interval against its coverage", f"all models, {last}", 3.2, _width),
    }
    for name, (title, subtitle, height, draw) in panels.items():
        panel = Panel(title, subtitle, height, _drawn(draw, tail))
        (folder / f"accuracy-{name}.svg").write_bytes(picture([panel], "svg"))


def _drawn(draw: Callable[[Axes, Tail], None], tail: Tail) -> Callable[[SubFigure], None]:
    return lambda subfigure: draw(subfigure.subplots(), tail)


def _over_time(axes: Axes, tail: Tail) -> None:
    one = tail.from_counters
    minutes = (one.time - one.time[0]) / 60
    lower, upper = np.maximum(one.predicted - one.half_width, 0), one.predicted + one.half_width
    axes.fill_between(minutes, lower, upper, color=PREDICTED, alpha=0.2, linewidth=0, label="90 % interval")
    axes.plot(minutes, one.measured, color=MEASURED, linewidth=0.9, label="measured")
    axes.plot(minutes, one.predicted, color=PREDICTED, linewidth=0.9, label="predicted")
    axes.set(xlabel="minutes", ylabel="package power in W")
    axes.legend(ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.2))


def _calibration(axes: Axes, tail: Tail) -> None:
    normal = NormalDist()
    factors = np.array([normal.inv_cdf(0.5 + level / 2) for level in LEVELS]) / normal.inv_cdf(0.5 + INTERVAL_LEVEL / 2)
    for colour, (label, one) in zip(COLOURS, _chosen(tail), strict=False):
        errors = np.abs(one.predicted - one.measured)
        covered = [float((errors <= factor * one.half_width).mean()) for factor in factors]
        axes.plot(100 * LEVELS, 100 * np.array(covered), color=colour, label=f"{label}: {_name(one)}")
    axes.plot([30, 98], [30, 98], color=MEASURED, linestyle="--", linewidth=0.8, label="nominal = coverage")
    axes.axvline(100 * INTERVAL_LEVEL, color=MEASURED, linewidth=0.6, linestyle=":")
    axes.set(xlabel="nominal level in %", ylabel="coverage in %")
    axes.legend(loc="lower right", fontsize=7.5)


def _splits(axes: Axes, tail: Tail) -> None:
    models = sorted((one for one in tail.models if one.model.feature_group == "CounterOnly"), key=lambda one: one.mae)
    stated = [_stated(one) for one in models]
    names = [name for name in SPLIT_NAMES if any(name in errors for errors in stated)]
    at = np.arange(len(models))
    width = 0.8 / (len(names) + 1)
    for number, name in enumerate(names):
        heights = [errors.get(name, 0.0) for errors in stated]
        axes.bar(at + number * width, heights, width, color=COLOURS[number], label=f"stated: {name}")
    axes.bar(at + len(names) * width, [one.mae for one in models], width, color=MEASURED, label="last 30 %")
    axes.set_xticks(at + 0.4 - width / 2, [_trainer(one) for one in models], rotation=35, ha="right", fontsize=7.5)
    axes.set(ylabel="package MAE in W")
    axes.legend()


def _width(axes: Axes, tail: Tail) -> None:
    groups = sorted({one.model.feature_group for one in tail.models})
    for number, group in enumerate(groups):
        models = [one for one in tail.models if one.model.feature_group == group]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot([one.width for one in models], [100 * one.coverage for one in models], "o", color=colour, label=group)
    axes.axhline(100 * INTERVAL_LEVEL, color=MEASURED, linewidth=0.6, linestyle=":")
    axes.set(
        xlabel="mean full width of the 90 % interval in W",
        ylabel="coverage in %",
    )
    axes.legend(fontsize=7.5)


def _chosen(tail: Tail) -> Sequence[tuple[str, Comparison]]:
    return [("all features", tail.from_all), ("CounterOnly", tail.from_counters)]


def _stated(one: Comparison) -> dict[str, float]:
    """Return the mean absolute errors of package power that the model's metadata state, by split."""
    honesty = read_honesty(one.model.metadata)
    if honesty is None:
        return {}
    return {name: errors.components["package"].mae for name, errors in honesty.splits.items() if errors is not None}


def _trainer(one: Comparison) -> str:
    return one.model.trainer.removesuffix("Trainer").removesuffix("Regressor").removesuffix("Regression")


def _name(one: Comparison) -> str:
    return f"{_trainer(one)}, {one.model.feature_group}"
