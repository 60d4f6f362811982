"""The panels of figures. Each panel shows one aspect of measured power, predicted power or features.

The power of a node is in watts. The power of a DynPower model is the sum over the containers of a node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.messages import printable
from kepler_core.plots.canvas import COLOURS, LINE_STYLES, MEASURED, PREDICTED, Panel, grid
from kepler_core.recording.times import utc

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

MAX_TIME_ROWS = 12
"""Maximum number of rows in a panel of power over time. A recording may have thousands of nodes."""
MAX_USAGE_ROWS = 20
"""Maximum number of rows in a panel of usage. It is enough for all components and features of Kepler, and for some
further features."""
MAX_NODES = 8
"""Maximum number of nodes that have different colours in one plot. A recording may have thousands of nodes."""
MAX_POINTS = 2000
"""Maximum number of points of one line or one cloud of points. If there are more, every n-th point is drawn."""
CURVE_BINS = 30
_NAME_CHARACTERS = 60
_COLUMNS = 3
_TOGETHER_SECONDS = 60.0
"""If the first samples of all nodes are at most this far apart, the nodes share one time axis."""
_GAP_STEPS = 2.5
"""Two samples are not connected by a line if the time between them exceeds this multiple of the usual time."""
_LEAST_RATIO = 4.0
"""On the colour scale, the largest error is at least this multiple of the smallest error, so that similar errors get
similar colours."""
_WHITE_BELOW = 0.45
"""Below this fraction of the colour scale, colours are so dark that white text is easier to read than black."""


@attrs.frozen(eq=False)
class NodePower:
    """One component's power of one node over time. All arrays have the shape (timestamps,)."""

    node: str
    component: str
    time: FloatArray
    """Unix seconds."""
    measured: FloatArray | None
    """Watts; NaN at times at which the power was not measured. The attribute is None if it was never measured."""
    predicted: FloatArray | None = None
    """Watts; None if no model was applied."""
    half_width: FloatArray | None = None
    """Half-width of the interval around `predicted` in watts; None if it is not known."""


@attrs.frozen(eq=False)
class Curve:
    """The power of one component in relation to the component's main feature, for all nodes together."""

    component: str
    feature: str
    unit: str
    load: FloatArray
    """Values of the feature, shape (samples,)."""
    measured: FloatArray | None
    """Watts, shape (samples,); NaN where the power was not measured."""
    models: Mapping[str, FloatArray] = attrs.field(factory=dict)
    """Predicted watts of each trainer's model, shape (samples,). The keys are the trainers."""


@attrs.frozen(eq=False)
class Usage:
    """One feature of one node over time. The arrays have the shape (timestamps,)."""

    node: str
    feature: str
    unit: str
    time: FloatArray
    values: FloatArray


@attrs.frozen
class ModelError:
    """The validated errors of one model."""

    feature_group: str
    trainer: str
    mae: float | None
    """Mean absolute error in watts, None if unknown."""
    mape: float | None
    """Mean absolute percentage error, None if unknown."""


def scatter_panel(subtitle: str, nodes: Sequence[NodePower], errors: Mapping[str, float | None]) -> Panel:
    """Return a panel of predicted against measured power, with one plot for each component.

    Nodes have different colours unless there are more than `MAX_NODES`. `errors` has the mean absolute error in watts
    of each component.
    """
    components = list(dict.fromkeys(node.component for node in nodes))
    names = list(dict.fromkeys(node.node for node in nodes))
    colour_of = {name: _colour(at if len(names) <= MAX_NODES else 0) for at, name in enumerate(names)}

    def draw(part: SubFigure) -> None:
        plots = _columns(part, len(components))
        for component, plot in zip(components, plots, strict=True):
            highest = 0.0
            for node in nodes:
                if node.component != component or node.measured is None or node.predicted is None:
                    continue
                known = np.flatnonzero(np.isfinite(node.measured) & np.isfinite(node.predicted))
                shown = known[:: _stride(len(known) * len(names))]
                x, y = node.measured[shown], node.predicted[shown]
                highest = max(highest, float(x.max(initial=0)), float(y.max(initial=0)))
                plot.plot(x, y, ".", ms=5, alpha=0.5, mew=0, color=colour_of[node.node], label=_short(node.node))
            limit = 1.05 * highest or 1.0
            plot.plot([0, limit], [0, limit], color=MEASURED, lw=1, ls="--")
            plot.set(xlim=(0, limit), ylim=(0, limit), xlabel="measured (W)", ylabel="predicted (W)", box_aspect=1)
            error = errors.get(component)
            plot.set_title(component if error is None else f"{component}: MAE {error:.3g} W in this data")
        _node_legend(part, plots, names)

    height = 3.9 * -(-len(components) // _COLUMNS) + _legend_height(names)
    return Panel("Predicted against measured power", f"{subtitle}; dashed: predicted = measured", height, draw)


def time_panel(subtitle: str, nodes: Sequence[NodePower]) -> Panel:
    """Return a panel of power over time, with one row for each node and component: measured and, if known, predicted.

    At most `MAX_TIME_ROWS` rows are drawn.
    """
    shown = nodes[:MAX_TIME_ROWS]
    several = len({node.node for node in nodes}) > 1
    starts, axis = _starts([(node.node, node.time) for node in shown])

    def draw(part: SubFigure) -> None:
        plots = grid(part, len(shown), share_x=True)
        for node, plot in zip(shown, plots, strict=True):
            step = _stride(len(node.time))
            if node.measured is not None:
                plot.plot(*_line(node.time, node.measured, starts[node.node]), color=MEASURED, label="measured")
            if node.predicted is not None:
                minutes, predicted = _line(node.time, node.predicted, starts[node.node])
                if node.half_width is not None:
                    _, half = _line(node.time, node.half_width, starts[node.node])
                    band = np.maximum(predicted - half, 0), predicted + half
                    plot.fill_between(minutes, *band, color=PREDICTED, alpha=0.2, lw=0, label="90 % interval")
                plot.plot(minutes, predicted, color=PREDICTED, label="predicted", lw=1.0)
            plot.set_ylabel("W")
            plot.set_title((f"{_short(node.node)}: " if several else "") + node.component + _thinned(step))
            _finish_row(plot)
        plots[-1].set_xlabel(axis)
        by_label = _handles(plots)
        part.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=3)

    more = _left_out(len(nodes) - len(shown))
    return Panel("Power over time", subtitle + more, 1.45 * len(shown) + 0.6, draw)


def usage_panel(subtitle: str, power: Sequence[NodePower], usage: Sequence[Usage]) -> Panel:
    """Return a panel of measured power and features over time, with one row for each component and feature.

    Each node is a line. At most `MAX_USAGE_ROWS` rows and `MAX_NODES` nodes are drawn.
    """
    all_names = list(dict.fromkeys([node.node for node in power] + [one.node for one in usage]))
    names = all_names[:MAX_NODES]
    lines: dict[str, list[tuple[str, FloatArray, FloatArray]]] = {}
    for node in power:
        if node.measured is not None and node.node in names:
            lines.setdefault(f"{node.component} power (W)", []).append((node.node, node.time, node.measured))
    for one in (one for one in usage if one.node in names):
        lines.setdefault(f"{_short(one.feature)} ({one.unit})", []).append((one.node, one.time, one.values))
    shown = dict(list(lines.items())[:MAX_USAGE_ROWS])
    starts, axis = _starts([(name, time) for entries in shown.values() for name, time, _ in entries])

    def draw(part: SubFigure) -> None:
        plots = grid(part, len(shown), share_x=True)
        for (label, entries), plot in zip(shown.items(), plots, strict=True):
            step = _stride(max(len(time) for _, time, _ in entries))
            for name, time, values in entries:
                line = _line(time, values, starts[name])
                plot.plot(*line, color=_colour(names.index(name)), label=_short(name), alpha=0.9)
            plot.set_title(label + _thinned(step))
            _finish_row(plot)
        plots[-1].set_xlabel(axis)
        _node_legend(part, plots, names)

    more = _left_out(len(lines) - len(shown)) + _left_out(len(all_names) - len(names), "nodes")
    return Panel("Usage over time", subtitle + more, 1.25 * len(shown) + 0.3 + _legend_height(names), draw)


def curve_panel(subtitle: str, curves: Sequence[Curve]) -> Panel:
    """Return a panel of power against the main feature: the measured points, and a line for each model.

    A model may use further features. Then the main feature alone does not determine its predictions. The samples are
    divided into `CURVE_BINS` groups with similar values of the main feature. The line of a model connects its mean
    predictions in these groups. It covers only values of the main feature that were recorded.
    """
    trainers = list(dict.fromkeys(trainer for curve in curves for trainer in curve.models))

    def draw(part: SubFigure) -> None:
        plots = _columns(part, len(curves), 2)
        for curve, plot in zip(curves, plots, strict=True):
            if curve.measured is not None:
                known = np.flatnonzero(np.isfinite(curve.measured))
                shown = known[:: _stride(len(known))]
                plot.plot(
                    curve.load[shown], curve.measured[shown], ".", ms=5, mew=0, alpha=0.4, color=MEASURED,
                    label="measured",
                )  # fmt: skip
            for trainer, watts in curve.models.items():
                at = trainers.index(trainer)
                style = LINE_STYLES[at % len(LINE_STYLES)]
                plot.plot(*binned(curve.load, watts), color=_colour(at), ls=style, lw=1.6, label=_short(trainer))
            plot.set_title(curve.component)
            plot.set(xlabel=f"{_short(curve.feature)} ({curve.unit})", ylabel="power (W)")
            plot.set_ylim(bottom=0)
            plot.xaxis.set_major_formatter(short_number)
        handles, labels = plots[0].get_legend_handles_labels()
        part.legend(handles, labels, loc="outside lower center", ncols=3, markerscale=2)

    height = 3.6 * -(-len(curves) // 2) + 0.3 * -(-(len(trainers) + 1) // 3)
    lines = "; lines: mean prediction for samples of similar load" if trainers else ""
    return Panel("Power against the main feature", subtitle + lines, height, draw)


def error_panel(subtitle: str, errors: Sequence[ModelError]) -> Panel:
    """Return a panel of errors by trainer (rows) and feature group (columns).

    Each cell shows the mean absolute error in watts and the mean absolute percentage error. If several models belong
    to a cell, e.g. models of several node types, the cell shows the medians of their errors.
    """
    groups = list(dict.fromkeys(error.feature_group for error in errors))
    trainers = sorted({error.trainer for error in errors})
    mae = np.full((len(trainers), len(groups)), np.nan)
    texts = np.full(mae.shape, "", dtype=object)
    for row, trainer in enumerate(trainers):
        for column, group in enumerate(groups):
            cell = [error for error in errors if (error.trainer, error.feature_group) == (trainer, group)]
            watts = [error.mae for error in cell if error.mae is not None]
            percent = [error.mape for error in cell if error.mape is not None]
            if watts:
                mae[row, column] = np.median(watts)
                texts[row, column] = f"{mae[row, column]:.3g} W"
                texts[row, column] += f"\n{np.median(percent):.3g} %" if percent else ""

    def draw(part: SubFigure) -> None:
        (plot,) = grid(part, 1)
        # a logarithmic colour scale, because the errors of one panel may differ a thousandfold
        level = np.log10(np.maximum(mae, 1e-3))
        lowest = float(np.nanmin(level)) if np.isfinite(level).any() else 0.0
        highest = max(float(np.nanmax(level)) if np.isfinite(level).any() else 0.0, lowest + np.log10(_LEAST_RATIO))
        level = (level - lowest) / (highest - lowest)
        # draw rectangles: programs that show SVG files may blur an image with few pixels
        edges = np.arange(len(groups) + 1) - 0.5, np.arange(len(trainers) + 1) - 0.5
        cells = np.ma.masked_invalid(level)
        plot.pcolormesh(*edges, cells, cmap="cividis", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        plot.invert_yaxis()
        for (row, column), text in np.ndenumerate(texts):
            colour = "white" if level[row, column] < _WHITE_BELOW else "black"
            plot.text(column, row, text or "–", ha="center", va="center", fontsize=9, color=colour)
        plot.set_xticks(range(len(groups)), [_short(group) for group in groups])
        plot.set_yticks(range(len(trainers)), [_short(trainer) for trainer in trainers])
        plot.tick_params(length=0)
        plot.grid(visible=False)
        plot.spines[:].set_visible(False)
        plot.set_xlabel("feature group (dark: small mean absolute error; bright: large)")

    return Panel("Validated errors (MAE, MAPE)", subtitle, 0.42 * len(trainers) + 0.6, draw)


def binned(load: FloatArray, watts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean load and the mean watts of groups of samples with similar load.

    Samples are sorted by load and divided into at most `CURVE_BINS` groups of nearly equal size. Both results have the
    shape (groups,).
    """
    known = np.isfinite(load) & np.isfinite(watts)
    order = np.argsort(load[known], kind="stable")
    groups = np.array_split(order, min(CURVE_BINS, len(order)))
    x, y = load[known], watts[known]
    return np.array([x[group].mean() for group in groups]), np.array([y[group].mean() for group in groups])


def _columns(part: SubFigure, number: int, columns: int = _COLUMNS) -> list[Axes]:
    """Return `number` plots in rows of `columns` plots. All have equal widths, also in an incomplete last row."""
    axes = grid(part, -(-number // columns), columns)
    for unused in axes[number:]:
        unused.set_axis_off()
    return axes[:number]


def _handles(plots: Sequence[Axes]) -> dict[str, Artist]:
    """Return the entries of a legend: each label in the plots, with one drawn object that has this label."""
    return {label: handle for plot in plots for handle, label in zip(*plot.get_legend_handles_labels(), strict=True)}


def _node_legend(part: SubFigure, plots: Sequence[Axes], names: Sequence[str]) -> None:
    """Add a legend of the nodes' colours, unless there is only one node or there are more than `MAX_NODES`."""
    if 1 < len(names) <= MAX_NODES:
        by_label = _handles(plots)
        part.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=2, markerscale=2)


def _legend_height(names: Sequence[str]) -> float:
    """Return the height of the legend of the nodes in inches."""
    return 0.3 * -(-len(names) // 2) if 1 < len(names) <= MAX_NODES else 0.0


def _starts(lines: Sequence[tuple[str, FloatArray]]) -> tuple[dict[str, float], str]:
    """Return where the time axis of each node begins, in Unix seconds, and the label of the axis.

    Nodes whose first samples are at most `_TOGETHER_SECONDS` apart have a common axis. Otherwise, e.g. if their
    recordings are days apart, each node has its own axis, which begins at the node's first sample.
    """
    starts: dict[str, float] = {}
    for name, time in lines:
        starts[name] = min(float(time[0]), starts.get(name, np.inf))
    first = min(starts.values(), default=0.0)
    if max(starts.values(), default=0.0) - first > _TOGETHER_SECONDS:
        return starts, "minutes since the first sample of each node"
    return dict.fromkeys(starts, first), f"minutes since {utc(first)} UTC"


def _line(time: FloatArray, values: FloatArray, start: float) -> tuple[FloatArray, FloatArray]:
    """Return the x and y values of a line: minutes since `start`, and `values`. NaN makes a gap for missing samples."""
    step = _stride(len(time))
    minutes, shown = (time[::step] - start) / 60, values[::step]
    intervals = np.diff(minutes)
    usual = np.median(intervals) if len(intervals) else np.inf
    gaps = np.flatnonzero(intervals > _GAP_STEPS * usual) + 1
    return np.insert(minutes, gaps, np.nan), np.insert(shown, gaps, np.nan)


def _finish_row(plot: Axes) -> None:
    plot.set_ylim(bottom=0)
    plot.margins(x=0.01)
    plot.yaxis.set_major_formatter(short_number)


def short_number(value: float, _: float | None = None) -> str:
    """Return the label of a number on an axis, of at most five characters, e.g. 0.25 or 20 k."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}"
    return f"{value:.4g}"


def _left_out(count: int, what: str = "rows") -> str:
    return f" ({count} more {what} are not drawn)" if count else ""


def _stride(count: int) -> int:
    return max(1, -(-count // MAX_POINTS))


def _thinned(step: int) -> str:
    return f" (one of {step} timestamps drawn)" if step > 1 else ""


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _short(name: str) -> str:
    return printable(name, _NAME_CHARACTERS)
