"""Figures made of panels, and their encoding as PNG or SVG.

matplotlib is imported inside of the functions, because commands and listeners that draw nothing must not wait for
it, and because the base install does not have it. Equal panels give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import attrs

from kepler_core.messages import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

PictureFormat = Literal["png", "svg"]

WIDTH_INCHES = 11.0
_SUBTITLE_INCHES = 0.26
"""Distance of the subtitle from the top of its panel: a line of 12 points and the padding of the layout."""
_LAYOUT_DECIMALS = 6
"""Decimals of positions, which are fractions of the figure's size."""
DOTS_PER_INCH = 100
"""Pixels per inch of a PNG file: at 100 %, the text of 10 points has the size of ordinary text on a screen."""

MEASURED = "#444444"
PREDICTED = "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Colours that remain distinct for colour-blind readers (M. Okabe and K. Ito, "Color Universal Design", 2008).

Their yellow is left out, because it can hardly be seen on white.
"""
LINE_STYLES = ("-", "--", ":")
"""Their number and the number of `COLOURS` have no common factor, so that 21 lines differ in colour or style."""

_SETTINGS: dict[Any, Any] = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    # names of nodes and plugins may contain a dollar sign, which would start a formula
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "kepler-core",
}

_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_ID = re.compile(r' id="([^"]+)"')


@attrs.frozen(eq=False)
class Panel:
    """One part of a figure, which has the full width of the figure."""

    title: str
    subtitle: str
    """What the panel is drawn from; empty for no line below the title."""
    height: float
    """Height in inches, without the title and the subtitle."""
    draw: Callable[[SubFigure], None]


def picture(panels: Sequence[Panel], format: PictureFormat) -> bytes:
    """Return a file with the panels, one below the other. It contains neither a date nor a random number."""
    if format == "svg":
        return _svg(panels, "part").encode()
    with _figure(panels) as figure:
        content = io.BytesIO()
        figure.savefig(content, format=format)
        return content.getvalue()


def inline_svg(panel: Panel, name: str) -> str:
    """Return a panel as an `<svg>` element for an HTML page.

    `name` must be different for each picture of a page, because the ids in the element begin with it.
    """
    svg = _svg([panel], name)
    return svg[svg.index("<svg") :]


@contextmanager
def _figure(panels: Sequence[Panel]) -> Iterator[Figure]:
    """Yield a figure in which the panels are drawn one below the other."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.transforms import ScaledTranslation

    heights = [panel.height + (0.65 if panel.subtitle else 0.45) for panel in panels]
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, sum(heights)), dpi=DOTS_PER_INCH, layout="constrained")
        parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)
        for panel, part in zip(panels, parts[:, 0], strict=True):
            # the layout places the title and leaves room for its second, empty line, where the subtitle is written
            title = f"{panel.title}\n" if panel.subtitle else panel.title
            part.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
            below = part.transSubfigure + ScaledTranslation(0, -_SUBTITLE_INCHES, figure.dpi_scale_trans)
            part.text(0.012, 1.0, printable(panel.subtitle), va="top", transform=below)
            panel.draw(part)
        _fix_layout(figure)
        yield figure


def _fix_layout(figure: Figure) -> None:
    """Compute the layout and round it.

    matplotlib 3.11 solves the layout with kiwisolver, whose results differ from run to run in their last digits.
    """
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.set_points(part.bbox_relative.get_points().round(_LAYOUT_DECIMALS))
    for axes in figure.axes:
        axes.set_position(Bbox(axes.get_position(original=True).get_points().round(_LAYOUT_DECIMALS)))


def _svg(panels: Sequence[Panel], name: str) -> str:
    """Return an SVG file. It has only those ids that it refers to itself: `<name>-1`, `<name>-2` and so on.

    matplotlib uses other ids, such as `axes_1`, in every picture.
    """
    with _figure(panels) as figure:
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    number = {old: at for at, old in enumerate(dict.fromkeys(_REFERENCE.findall(svg)), 1)}
    svg = _ID.sub(lambda match: f' id="{name}-{number[match[1]]}"' if match[1] in number else "", svg)
    return _REFERENCE.sub(lambda match: match[0].replace(match[1], f"{name}-{number[match[1]]}"), svg)


def grid(part: SubFigure, rows: int, columns: int = 1, *, share_x: bool = False) -> list[Axes]:
    """Return the axes of a grid in a part of a figure, row by row."""
    axes: list[Axes] = list(part.subplots(rows, columns, squeeze=False, sharex=share_x).flat)
    return axes
