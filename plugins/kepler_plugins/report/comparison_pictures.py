"""The pictures of a comparison: errors by split, predicted against measured power, and ranges of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from kepler_core.comparison.choice import Choice
from kepler_core.comparison.pairs import MIN_COMMON_SAMPLES, common_samples
from kepler_core.comparison.sides import SideModel
from kepler_core.honesty.document import SPLIT_NAMES, SplitName
from kepler_core.messages import printable
from kepler_core.pipeline.held_out_samples import HeldOutSamples
from kepler_core.plots.canvas import COLOURS, Panel, grid
from kepler_core.plots.panels import NodePower, scatter_panel
from kepler_plugins.report.chosen import SPLIT_WORDS
from kepler_plugins.report.pictures import Pictures

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

_SIDE_COLOURS = {"A": COLOURS[0], "B": COLOURS[1]}
MAX_FEATURES = 20
"""Maximum number of features in the picture that compares the ranges of features."""
MAX_COMPONENTS = 6
_ROW_INCHES = 0.5
_NAME_CHARACTERS = 40


@attrs.frozen
class SplitPoint:
    """The errors of one model on one split, or the half-width of its intervals."""

    label: str
    side: str
    watts: float
    """Mean absolute error of the model, or half-width of its intervals, in watts."""
    low: float
    high: float
    """Upper end of the 90 % interval of the mean absolute error; `low` is its lower end. If the interval is not known,
    `low` and `high` are equal to `watts`."""
    worst: float | None
    """Error on the hardest part."""


def of_choice(pictures: Pictures, choice: Choice) -> tuple[list[str], list[str]]:
    """Return the pictures of the models that `select` takes from A and from B.

    The second list has notes about pictures that cannot be drawn.
    """
    sides = {"A": choice.first, "B": choice.second}
    points = [point for letter, model in sides.items() if model is not None for point in _points(letter, model)]
    drawn = [pictures.svg(_split_panel(points))] if points else []
    samples, notes, subtitle = _samples(sides)
    nodes, errors = _node_powers(samples)
    if nodes:
        drawn.append(pictures.svg(scatter_panel(subtitle, nodes, errors)))
    ranges = {
        letter: model.honesty.seen.features
        for letter, model in sides.items()
        if model is not None and model.honesty is not None
    }
    if len(ranges) == len(sides) and any(ranges.values()):
        drawn.append(pictures.svg(_range_panel(ranges)))
    return drawn, notes


def _points(letter: str, model: SideModel) -> list[SplitPoint]:
    """Return a point for each split on which the model was evaluated, and one for the half-width of its intervals."""
    points = []
    for name, errors in model.errors.items():
        margin = _margin(model, name, max(errors.components, key=lambda one: errors.components[one].mae))
        if margin is None and errors.standard_error is not None:
            margin = 1.645 * errors.standard_error
        margin = margin or 0.0
        points.append(
            SplitPoint(
                SPLIT_WORDS[name], letter, errors.mae, max(errors.mae - margin, 0), errors.mae + margin, errors.worst
            )
        )
    if (half := model.half_width) is not None:
        points.append(SplitPoint("± 90 % interval", letter, half, half, half, None))
    return points


def _margin(model: SideModel, split: SplitName, component: str) -> float | None:
    """Return the half-width of the 90 % interval of a mean absolute error; None if it cannot be calculated.

    It is calculated from the held-out samples that are stored with the model.
    """
    samples = model.held_out
    if isinstance(samples, str) or component not in samples.predicted.get(split, {}):
        return None
    if component not in samples.measured:
        return None
    error = np.abs(samples.predicted[split][component] - samples.measured[component])
    error = error[np.isfinite(error)]
    return 1.645 * float(error.std(ddof=1)) / len(error) ** 0.5 if len(error) >= MIN_COMMON_SAMPLES else None


def _split_panel(points: Sequence[SplitPoint]) -> Panel:
    """Return a panel with a row for each split. A row shows the error of model A and of model B, with the interval of
    the error, and the error on the hardest part."""
    labels = list(dict.fromkeys(point.label for name in SPLIT_NAMES for point in points
                                if point.label == SPLIT_WORDS[name]))  # fmt: skip
    labels += [label for label in dict.fromkeys(point.label for point in points) if label not in labels]

    def draw(part: SubFigure) -> None:
        (plot,) = grid(part, 1)
        for point in points:
            y = labels.index(point.label) + (-0.16 if point.side == "A" else 0.16)
            colour = _SIDE_COLOURS[point.side]
            if point.worst is not None and point.worst > point.watts:
                plot.plot([point.watts, point.worst], [y, y], color=colour, lw=1, ls=":")
                plot.plot([point.worst], [y], "|", color=colour, ms=9)
            plot.plot([point.low, point.high], [y, y], color=colour, lw=4, alpha=0.35, solid_capstyle="butt")
            plot.plot([point.watts], [y], "o" if point.side == "A" else "s", color=colour, ms=6, label=point.side)
        plot.set_yticks(range(len(labels)), labels)
        plot.set_ylim(len(labels) - 0.5, -0.5)
        plot.set_xlim(left=0)
        plot.set_xlabel("W")
        handles, names = plot.get_legend_handles_labels()
        by_name = dict(zip(names, handles, strict=True))
        part.legend([by_name[name] for name in sorted(by_name)], sorted(by_name), loc="outside lower center", ncols=2)

    subtitle = (
        "mean absolute error, the largest of the components; band: its 90 % interval; dotted: to the hardest part"
    )
    return Panel("Errors by what was held out", subtitle, _ROW_INCHES * len(labels) + 0.9, draw)


def _samples(sides: Mapping[str, SideModel | None]) -> tuple[dict[str, HeldOutSamples], list[str], str]:
    """Return the samples to draw for each side (A, B), notes about missing samples, and a subtitle.

    The samples are those that the stored files of both models contain. If there are too few common samples, each side
    has the samples of its own file.
    """
    notes = []
    kept: dict[str, HeldOutSamples] = {}
    for letter, model in sides.items():
        if model is None:
            continue
        if isinstance(model.held_out, str):
            notes.append(f"Predicted against measured power is not drawn for {letter}: the model {model.held_out}.")
        else:
            kept[letter] = model.held_out
    one, two = sides["A"], sides["B"]
    common = None if one is None or two is None or len(kept) < len(sides) else common_samples(one, two)
    if common is not None and len(common[0].time) >= MIN_COMMON_SAMPLES:
        count = len(common[0].time)
        return dict(zip(sides, common, strict=True)), notes, f"the same {count} samples, held out of both trainings"
    if len(kept) == len(sides):
        notes.append(
            f"Fewer than {MIN_COMMON_SAMPLES} samples were held out of both trainings, so the pictures of A and B show "
            "different samples: compare the shape, not the watts."
        )
    return kept, notes, "samples that were held out of the training"


def _node_powers(samples: Mapping[str, HeldOutSamples]) -> tuple[list[NodePower], dict[str, float | None]]:
    """Return the measured and predicted power by side (A, B) and component, and the components, sorted by power.

    The predictions are those on the hardest split for which all sides have predictions.
    """
    common = [name for name in SPLIT_NAMES if samples and all(name in one.predicted for one in samples.values())]
    if not common:
        return [], {}
    split = common[-1]
    highest: dict[str, float] = {}
    nodes = []
    for letter, one in samples.items():
        for component, predicted in one.predicted[split].items():
            measured = one.measured.get(component)
            if measured is None:
                continue
            tested = np.isfinite(predicted) & np.isfinite(measured)
            if not tested.any():
                continue
            name = printable(component, _NAME_CHARACTERS)
            highest[name] = max(highest.get(name, 0.0), float(measured[tested].max()))
            nodes.append(NodePower(letter, name, one.time, measured, predicted))
    order = sorted(highest, key=lambda component: -highest[component])[:MAX_COMPONENTS]
    shown = [node for component in order for node in nodes if node.component == component]
    return shown, dict.fromkeys(order)


def _range_panel(ranges: Mapping[str, Mapping[str, tuple[float, float]]]) -> Panel:
    """Return a panel with a row for each feature. A row shows the feature's ranges in the trainings of A and B.

    The ranges are in percent of the feature's highest value in both trainings.
    """
    every = list(dict.fromkeys(name for side in ranges.values() for name in side))
    names = every[:MAX_FEATURES]

    def draw(part: SubFigure) -> None:
        (plot,) = grid(part, 1)
        for letter, side in ranges.items():
            for at, name in enumerate(names):
                if name not in side:
                    continue
                low, high = side[name]
                largest = max(abs(end) for other in ranges.values() for end in other.get(name, ())) or 1.0
                y = at + (-0.16 if letter == "A" else 0.16)
                plot.plot([100 * low / largest, 100 * high / largest], [y, y], color=_SIDE_COLOURS[letter], lw=6,
                          solid_capstyle="butt", label=letter)  # fmt: skip
        plot.set_yticks(range(len(names)), [printable(name, _NAME_CHARACTERS) for name in names])
        plot.set_ylim(len(names) - 0.5, -0.5)
        plot.set_xlabel("% of the highest value of both")
        handles, labels = plot.get_legend_handles_labels()
        by_name = dict(zip(labels, handles, strict=True))
        part.legend([by_name[name] for name in sorted(by_name)], sorted(by_name), loc="outside lower center", ncols=2)

    more = f" ({len(every) - len(names)} more features are not drawn)" if len(every) > len(names) else ""
    return Panel("Ranges of the training", f"features of a whole node{more}", 0.42 * len(names) + 0.9, draw)
