"""Figures that consist of panels, and the encoding of figures as PNG or SVG.

matplotlib is imported inside the functions: importing it is slow, and the base install does not have it.
Equal panels give equal bytes.
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
"""Number of decimals to which the positions of axes are rounded. A position is a fraction of the figure's size."""
DOTS_PER_INCH = 100
"""Pixels per inch of a PNG file. At a zoom of 100 %, its text of 10 points is as large as ordinary text on a screen."""

MEASURED = "#444444"
PREDICTED = "#D55E00"
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""Colours that remain distinct for colour-blind readers (M. Okabe and K. Ito, "Color Universal Design", 2008).

The yellow of their palette is left out, because it can hardly be seen on white.
"""
LINE_STYLES = ("-", "--", ":")
"""Line styles, which change together with the colours. 3 styles and 7 colours make 21 different lines."""

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
    # a dollar sign in the name of a node or plugin would start a formula
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "kepler-core",
}

_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')
_ID = re.compile(r' id="([^"]+)"')
_TAG = re.compile(r"<[^>]*>")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_POINTS = re.compile(r"<g( [^>]*)?>\s*((?:<use [^>]*/>\s*){20,})</g>")
"""Matches a group of many equal points in an SVG file, e.g. a cloud of points."""
_STYLE = re.compile(r' style="[^"]*"')


@attrs.frozen(eq=False)
class Panel:
    """One part of a figure. It is as wide as the figure."""

    title: str
    subtitle: str
    """The data that the panel shows, in words; if empty, the panel has no line below the title."""
    height: float
    """Height in inches, without the title and the subtitle."""
    draw: Callable[[SubFigure], None]


def picture(panels: Sequence[Panel], format: PictureFormat) -> bytes:
    """Return a picture of the panels, one below the other.

    The file has no date, so that equal panels give equal files.
    """
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
            # The second line of the title is empty. The layout leaves room for it, and the subtitle is written there.
            title = f"{panel.title}\n" if panel.subtitle else panel.title
            part.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
            below = part.transSubfigure + ScaledTranslation(0, -_SUBTITLE_INCHES, figure.dpi_scale_trans)
            part.text(0.012, 1.0, printable(panel.subtitle), va="top", transform=below)
            panel.draw(part)
        _fix_layout(figure)
        yield figure


def _fix_layout(figure: Figure) -> None:
    """Compute the layout and round the positions, so that equal panels give equal bytes.

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
    """Return an SVG file. Its ids are `<name>-1`, `<name>-2` and so on; ids that are not used are removed.

    The ids of matplotlib, such as `axes_1`, are the same in every picture, so they would clash in an HTML page.
    """
    with _figure(panels) as figure:
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    number = {old: at for at, old in enumerate(dict.fromkeys(_REFERENCE.findall(svg)), 1)}
    svg = _ID.sub(lambda match: f' id="{name}-{number[match[1]]}"' if match[1] in number else "", svg)
    return _shorter(_REFERENCE.sub(lambda match: match[0].replace(match[1], f"{name}-{number[match[1]]}"), svg))


def _shorter(svg: str) -> str:
    """Return an SVG file that looks the same with fewer characters.

    Coordinates are rounded to hundredths of a point. Points of one colour get their style from their group, because
    matplotlib would repeat the style for each point.
    """
    svg = _TAG.sub(lambda tag: _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.2f}", tag[0]), svg)
    return _POINTS.sub(_styled_together, svg)


def _styled_together(group: re.Match[str]) -> str:
    """Move the style of points in an SVG group to the group, if all points of the group have the same style."""
    attributes, points = group[1] or "", group[2]
    styles = set(_STYLE.findall(points))
    if len(styles) != 1 or "style=" in attributes:
        return group[0]
    together = re.sub(r"\s*\n\s*", "", _STYLE.sub("", points))
    return f"<g{attributes}{styles.pop()}>{together}</g>"


def grid(part: SubFigure, rows: int, columns: int = 1, *, share_x: bool = False) -> list[Axes]:
    """Add a grid of plots (matplotlib's axes) to a part of a figure, and return the plots row by row."""
    axes: list[Axes] = list(part.subplots(rows, columns, squeeze=False, sharex=share_x).flat)
    return axes
