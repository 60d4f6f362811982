"""Plots of profiles: power against the feature that represents the load best, with the idle power and a band that holds
90 % of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from kepler_core.arrays import FloatArray
from kepler_core.errors import UsageError
from kepler_core.recording.observations import Observations
from kepler_core.vocabulary import is_constant, main_feature
from kepler_profiler.profile.document import ComponentPower, NodeProfile

_BINS = 40
_MIN_BIN_SAMPLES = 3
_SIZE = (9.0, 5.5)
_DPI = 110
_DOTS, _LINE, _BAND = "#4472a8", "#c0392b", "#e8a33d"


def draw_profile(folder: Path, profile: NodeProfile, parts: Sequence[Observations], suffix: str) -> list[str]:
    """Write a plot for each component whose power varies, and return the names of the written files."""
    names = []
    for source, components in profile.power.items():
        for component, component_power in components.items():
            if is_constant(min(component_power.idle, component_power.maximum), component_power.maximum):
                continue
            main = main_feature(sorted(profile.features), component) if profile.features else None
            if main is None:
                continue
            x, watts = _samples(parts, main, source, component)
            if len(x) == 0:
                continue
            figure, axes = _figure()
            _draw_samples(axes, x, watts, component_power)
            axes.set_xlabel(f"{main} per second")
            axes.set_ylabel(f"{component} power (W)")
            machine = profile.machine_spec.get("processor", "a machine that is not described")
            axes.set_title(f"{source} {component} of {machine}")
            name = f"{source}_{component}.{suffix}"
            _save(figure, folder / name)
            names.append(name)
    return names


def draw_comparison(path: Path, one: tuple[str, NodeProfile], other: tuple[str, NodeProfile]) -> None:
    """Write a plot of the idle and highest power of two profiles, side by side."""
    keys = [
        (source, component)
        for source, components in one[1].power.items()
        for component in components
        if component in other[1].power.get(source, {})
    ]
    if not keys:
        raise UsageError("the two profiles have no energy source in common: there is nothing to draw")
    figure, axes = _figure()
    at = np.arange(len(keys), dtype=np.float64)
    for shift, (name, profile), colour in ((-0.2, one, _DOTS), (0.2, other, _BAND)):
        power = [profile.power[source][component] for source, component in keys]
        axes.bar(at + shift, [p.maximum for p in power], 0.38, color=colour, alpha=0.35, label=f"{name}: highest")
        axes.bar(at + shift, [p.idle for p in power], 0.38, color=colour, label=f"{name}: idle")
    axes.set_xticks(at, [f"{source}\n{component}" for source, component in keys])
    axes.set_ylabel("power (W)")
    axes.legend(fontsize="small")
    _save(figure, path)


def _figure() -> tuple[Figure, Any]:
    # pyplot is not used, because it keeps global state and searches for a display.
    figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(visible=True, alpha=0.3)
    return figure, axes


def _draw_samples(axes: Any, x: FloatArray, watts: FloatArray, power: ComponentPower) -> None:
    axes.plot(x, watts, ".", color=_DOTS, markersize=4, alpha=0.5, label=f"{len(x)} timestamps")
    edges = np.unique(np.quantile(x, np.linspace(0, 1, _BINS + 1)))
    if len(edges) > 2:
        bin_of = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, len(edges) - 2)
        bins = [b for b in range(len(edges) - 1) if (bin_of == b).sum() >= _MIN_BIN_SAMPLES]
        middle = [float(np.median(x[bin_of == b])) for b in bins]
        low, high = ([float(np.quantile(watts[bin_of == b], q)) for b in bins] for q in (0.05, 0.95))
        axes.fill_between(middle, low, high, color=_BAND, alpha=0.35, label="envelope: 5–95 % of a bin")
    bound = "idle power at most" if power.upper_bound else "idle power"
    axes.axhline(power.idle, color=_LINE, linewidth=1.4, label=f"{bound} {power.idle:.1f} ± {power.idle_spread:.1f} W")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=0)
    axes.legend(loc="lower right", fontsize="small")


def _samples(parts: Sequence[Observations], main: str, source: str, component: str) -> tuple[FloatArray, FloatArray]:
    """Return the values of the feature `main` and of a component's power.

    Only timestamps at which both values are known are used.
    """
    xs, ys = [np.empty(0)], [np.empty(0)]
    for part in parts:
        if main in part.node_features and (source, component) in part.power:
            x, y = part.node_features[main], part.power[source, component]
            finite = np.isfinite(x) & np.isfinite(y)
            xs.append(x[finite])
            ys.append(y[finite])
    return np.concatenate(xs), np.concatenate(ys)


def _save(figure: Figure, path: Path) -> None:
    try:
        figure.savefig(path, dpi=_DPI, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
