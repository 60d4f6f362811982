"""The web page of the meter: this machine's current watts, their power source, and advice on more certain watts.

The module is imported at the first request for the page, so that a meter without visitors needs no memory for it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from kepler_core.errors import KeplerError
from kepler_core.metering import Power, Reading
from kepler_core.vocabulary import COMPONENTS
from kepler_servers.browser.assets import PATH as ASSETS_PATH
from kepler_servers.browser.assets import asset
from kepler_servers.browser.view import Site, View
from kepler_servers.http.answer import Answer, HttpError
from kepler_servers.meter.prometheus_metrics import MeterState, Published

SITE = Site("meter", (("watts_now", "/"),))

SCALE_WIDTH = 700
"""Length of the drawn scale that shows the interval, in units of the SVG picture."""
_MAX_SENTENCES = 20


def answer(state: MeterState, environ: Mapping[str, Any]) -> Answer:
    """Return the answer to a request for the meter's page, or for a file that the page loads."""
    path = str(environ.get("PATH_INFO", "/"))
    if path == "/":
        return _page(state, View.of(SITE, environ))
    try:
        return asset(path.removeprefix(f"{ASSETS_PATH}/"))
    except HttpError as error:
        return SITE.error_page(error, environ)


def _page(state: MeterState, view: View) -> Answer:
    # The meter's thread may replace these values at any time. So each value is read only once.
    published, status = state.published, state.status
    problems: list[str] = []
    if status is not None:
        problems += status.problems
        problems += [f"output {name}: {problem}" for name, problem in status.output_problems.items()]
    values: dict[str, Any] = {"reading": None, "reason": state.reason}
    if published is not None:
        values = _values(state, published)
    return view.answer(
        "watts.html.j2",
        seconds=1 if status is None else max(1, round(status.interval)),
        problems=problems[:_MAX_SENTENCES],
        **values,
    )


def _values(state: MeterState, published: Published) -> dict[str, Any]:
    """Return the values that the template needs to show a reading."""
    reading = published.reading
    main = reading.power[reading.main]
    end = max(main.upper, main.watts, 0.0 if reading.full is None else reading.full.upper)
    observation = reading.observation
    return {
        "reading": reading,
        "main": main,
        "scale": _scale(main, end),
        "rows": [(name, reading.power[name]) for name in COMPONENTS if name in reading.power],
        "joules": published.joules,
        "age": time.monotonic() - published.since,
        "load": None if observation is None else observation.load,
        "better": _advice(state, reading),
    }


def _scale(main: Power, end: float) -> dict[str, float]:
    """Return the positions of the watts and of the interval on a drawn scale, which reaches from 0 W to `end`."""
    unit = SCALE_WIDTH / end if end > 0 else 0.0
    return {
        "width": SCALE_WIDTH,
        "end": end,
        "lower": round(main.lower * unit, 1),
        "upper": round(main.upper * unit, 1),
        "here": round(main.watts * unit, 1),
    }


def _advice(state: MeterState, reading: Reading) -> Sequence[str]:
    if state.advise is None:
        return ()
    try:
        return state.advise(reading)[:_MAX_SENTENCES]
    except KeplerError as error:  # e.g. the file that describes the machine was removed
        return (f"unknown: {error}",)
