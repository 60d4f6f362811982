"""Compute the coordinates of the picture of a power curve. The template `curve.svg.j2` uses them in SVG elements.

The picture has no inline styles, because the Content-Security-Policy of the pages forbids them. The colours are in the
style sheet, so that the picture follows the dark mode of the page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs

from kepler_servers.browser.curve import Curve

WIDTH, HEIGHT = 720, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 32, 30, 52
"""Margins of the picture, in units of the SVG picture."""
MAX_LINES = 5
"""Maximum number of components that are drawn. The style sheet has a colour for each of them."""
_TICKS = 5
_NO_POWER_WATTS = 0.05


@attrs.frozen
class Tick:
    """A mark on an axis: its position in the picture, and its label."""

    at: float
    label: str


@attrs.frozen
class Line:
    """The line of one component, as attributes of SVG elements."""

    component: str
    number: int
    """Number of the line's colour in the style sheet, from 0."""
    points: str
    band: str
    """Points of the polygon that shows the interval; empty if there is no interval."""
    first: float
    last: float
    """`first` and `last` are the watts at the two ends of the curve."""


@attrs.frozen
class Drawing:
    """The coordinates of the picture of a power curve."""

    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]

    width = WIDTH
    height = HEIGHT
    left = LEFT
    right = WIDTH - RIGHT
    top = TOP
    bottom = HEIGHT - BOTTOM


def drawing_of(curve: Curve) -> Drawing:
    """Return the drawing of a curve. Components without power are left out, unless all components are without power."""
    names = [name for name, part in curve.components.items() if max(part.watts) > _NO_POWER_WATTS]
    names = (names or list(curve.components))[:MAX_LINES]
    low, high = min(curve.x), max(curve.x)
    x_steps = _steps(low, high)
    tops = [
        watts + half
        for name in names
        for watts, half in zip(
            curve.components[name].watts, curve.components[name].half_width or [0.0] * len(curve.x), strict=True
        )
    ]
    y_steps = _steps(0.0, max(tops, default=0.0))
    x_end, y_end = x_steps[-1], y_steps[-1]

    def x_at(value: float) -> float:
        return LEFT + (value - x_steps[0]) / (x_end - x_steps[0]) * (WIDTH - LEFT - RIGHT)

    def y_at(watts: float) -> float:
        return HEIGHT - BOTTOM - watts / y_end * (HEIGHT - TOP - BOTTOM)

    def points(xs: Sequence[float], watts: Sequence[float]) -> str:
        return " ".join(f"{x_at(x):.1f},{y_at(value):.1f}" for x, value in zip(xs, watts, strict=True))

    lines = []
    for number, name in enumerate(names):
        part = curve.components[name]
        band = ""
        if part.half_width is not None:
            upper = [watts + half for watts, half in zip(part.watts, part.half_width, strict=True)]
            lower = [max(watts - half, 0.0) for watts, half in zip(part.watts, part.half_width, strict=True)]
            band = f"{points(curve.x, upper)} {points(curve.x[::-1], lower[::-1])}"
        lines.append(Line(name, number, points(curve.x, part.watts), band, part.watts[0], part.watts[-1]))
    return Drawing(
        lines,
        [Tick(round(x_at(value), 1), _label(value)) for value in x_steps],
        [Tick(round(y_at(value), 1), _label(value)) for value in y_steps],
    )


def _steps(low: float, high: float) -> list[float]:
    """Return evenly spaced round numbers. The first number is at most `low`, and the last number is at least `high`."""
    if not high > low:
        high = low + max(abs(low), 1.0)
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _label(value: float) -> str:
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.4g} {suffix}"
    return f"{value:.4g}"
