"""Meters that stand still: slow meters, which have a new reading only at some scrapes, and meters that freeze.

A platform's meter (BMC, ACPI) may be read every 30 s while its exporter is scraped every 3 s. The meter's counter then
stands still for nine samples, and the tenth sample shows the energy of 30 s. The power is only known over the whole
window of 30 s, so the features must be averaged over the same window. `kepler_core.frames` does that.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IntArray
from kepler_core.recording.laid_out import LaidOut
from kepler_core.recording.node_rows import row_medians

SELDOM = 0.2
"""If a meter stands still in more than this fraction of the samples, its reading changes only at some scrapes.

If it stands still in fewer samples, the meter froze for some time.
"""
CATCH_UP = 0.9
"""If the power in a long interval is below this fraction of the lowest power in other intervals, energy was lost."""
OFTEN = 0.05
"""Maximum number of times that the meter of a component may freeze, as a fraction of the number of samples. With more
freezes, all power of the component is left out."""
_ALWAYS_DRAW = ("package", "dram")
"""The components of a meter that draw power at all times."""
LONG_INTERVAL = 1.5
"""An interval is long if it exceeds this multiple of the usual interval."""


def find_windows(laid_out: LaidOut) -> dict[str, IntArray]:
    """Leave out power where a meter stood still; return the windows of meters whose reading is renewed seldom.

    A meter that never moves has no power at all, however short the recording is: a machine that runs draws power.

    A meter whose reading is renewed seldom has a new reading only at some samples. Its power at a sample is the mean
    over a window of time that ends at this sample. The result maps the meter's energy source to an array of shape
    (samples,). The array contains the index of the sample at which the window begins, or -1 if this is not known. The
    windows of all other meters begin at the previous sample.
    """
    windows: dict[str, IntArray] = {}
    has_long_interval = _has_long_interval(laid_out)
    for source in sorted({source for source, _ in laid_out.power}):
        keys = [key for key in laid_out.power if key[0] == source]
        watts = np.vstack([laid_out.power[key] for key in keys])
        known: BoolArray = np.any(np.isfinite(watts), axis=0)
        still: BoolArray = known & np.all(np.nan_to_num(watts) == 0, axis=0)
        begins = np.arange(-1, len(known) - 1)
        is_seldom = False
        has_moved = laid_out.any_in_stream(known & ~still)
        for samples in laid_out.streams(laid_out.any_in_stream(still) & ~has_moved):
            watts[:, samples] = np.nan
        for samples in laid_out.streams(laid_out.any_in_stream(still) & has_moved):
            meter = _Meter(laid_out.sample_time[samples], watts[:, samples], known[samples], still[samples])
            watts[:, samples] = meter.watts()
            begins[samples] = np.where(meter.begins >= 0, samples.start + meter.begins, -1)
            is_seldom |= meter.is_seldom
        components = [component for _, component in keys]
        for samples in laid_out.streams(laid_out.any_in_stream(_any_still_component(watts, components))):
            watts[:, samples] = _without_still_components(watts[:, samples], components)
        for samples in laid_out.streams(has_long_interval):
            watts[:, samples] = _without_lost_energy(watts[:, samples], laid_out.sample_time[samples])
        _replace(laid_out, keys, watts)
        if is_seldom:
            windows[source] = begins
    return windows


@attrs.frozen(eq=False)
class _Meter:
    """The samples of one meter of one node."""

    time: FloatArray
    """Unix seconds, shape (samples,)."""
    power: FloatArray
    """Watts, shape (components, samples); NaN where the power is not known."""
    known: BoolArray
    """Whether the power of any component is known, shape (samples,)."""
    still: BoolArray
    """Whether the counters of all components have the same value as in the sample before, shape (samples,)."""

    @property
    def is_seldom(self) -> bool:
        """Whether the meter's reading is renewed seldom (see `SELDOM`)."""
        return bool(np.count_nonzero(self.still) > SELDOM * np.count_nonzero(self.known))

    @property
    def begins(self) -> IntArray:
        """For each sample, the index of the last earlier sample with a new reading of the meter; -1 if none exists."""
        moved = self.known & ~self.still
        last = np.maximum.accumulate(np.where(moved, np.arange(len(moved)), -1))
        return np.concatenate([[-1], last[:-1]])

    def watts(self) -> FloatArray:
        """Return the power of each window at the last sample of the window, and NaN at all other samples.

        A window is the time between two new readings of the meter. Its power is the mean over this time. If the meter
        only froze for some time (`is_seldom` is false), the first sample after the freeze is NaN, too.
        """
        begins = self.begins
        index = np.arange(len(begins))
        n_known = np.concatenate([[0], np.cumsum(self.known)])
        whole = (begins >= 0) & (n_known[index + 1] - n_known[begins + 1] == index - begins)
        if not self.is_seldom:
            # keep the windows of one interval, and the first sample, for which `begins` is -1
            whole = (index - np.maximum(begins, -1) == 1) | (np.cumsum(self.still) == 0)
        seconds = self.time - np.concatenate([[np.nan], self.time[:-1]])
        window_seconds = np.where(begins >= 0, self.time - self.time[np.maximum(begins, 0)], seconds)
        factor = np.divide(seconds, window_seconds, out=np.ones(len(seconds)), where=window_seconds > 0)
        return np.where(whole & ~self.still, self.power * factor, np.nan)


def _any_still_component(watts: FloatArray, components: Sequence[str]) -> BoolArray:
    """Return which samples have no power of package or DRAM, but power of another component, shape (samples,)."""
    is_still: BoolArray = np.zeros(watts.shape[1], dtype=bool)
    has_power = np.count_nonzero(watts > 0, axis=0)
    for at, component in enumerate(components):
        if component in _ALWAYS_DRAW:
            is_still |= (watts[at] == 0) & (has_power > 0)
    return is_still


def _has_long_interval(laid_out: LaidOut) -> BoolArray:
    """Return which streams have an interval that is much longer than the usual interval, shape (streams,)."""
    seconds = np.diff(laid_out.sample_time, prepend=np.nan)
    in_stream = np.diff(laid_out.sample_stream, prepend=-1) == 0
    has_long = np.zeros(len(laid_out.nodes), dtype=bool)
    for rows in laid_out.rows(in_stream, 1):
        ascending = np.sort(rows.of(seconds, np.inf), axis=1)
        longest = ascending[np.arange(len(rows.lengths)), rows.lengths - 1]
        has_long[rows.streams] = longest > LONG_INTERVAL * row_medians(ascending, rows.lengths)
    return has_long


def _without_still_components(watts: FloatArray, components: Sequence[str]) -> FloatArray:
    """Return `watts`, with NaN where package or DRAM has no power while another component of the meter has power.

    `watts` and the result have the shape (components, samples). The next interval may contain the energy of the
    interval without power, so the power of the next interval is NaN, too. If a component's counter often stands still,
    the component is not measured, or its counter is too coarse. Then all power of the component is NaN. Core and uncore
    are 0 W on machines that do not measure them.
    """
    result = watts.copy()
    for at, component in enumerate(components):
        if component not in _ALWAYS_DRAW:
            continue
        still: BoolArray = (watts[at] == 0) & np.any(np.delete(watts, at, axis=0) > 0, axis=0)
        if still.any():
            known = np.flatnonzero(np.isfinite(watts[at]))
            after = known[1:][still[known[:-1]]]
            result[at, still] = np.nan
            result[at, after] = np.nan
            freezes = np.count_nonzero(np.diff(still, prepend=False) & still)
            if freezes > OFTEN * len(known):
                result[at] = np.nan
    return result


def _without_lost_energy(watts: FloatArray, time: FloatArray) -> FloatArray:
    """Return `watts`, with NaN after each long interval in which the meter lost energy.

    `watts` and the result have the shape (components, samples).
    """
    seconds = np.diff(time, prepend=np.nan)
    is_long = np.zeros(len(time), dtype=bool)
    if len(time) > 1:
        is_long = seconds > LONG_INTERVAL * np.nanmedian(seconds)
    if not is_long.any():
        return watts
    usual = np.where(is_long, np.inf, np.nan_to_num(watts, nan=np.inf)).min(axis=1, keepdims=True)
    return np.where(is_long & np.isfinite(usual) & (watts < CATCH_UP * usual), np.nan, watts)


def _replace(laid_out: LaidOut, keys: list[tuple[str, str]], watts: FloatArray) -> None:
    for key, values in zip(keys, watts, strict=True):
        old = laid_out.power[key]
        dropped = np.flatnonzero(np.isfinite(old) & ~np.isfinite(values))
        if len(dropped):
            laid_out.counts.count("frozen_meters", " ".join(key), len(dropped), laid_out.place(int(dropped[0])))
            laid_out.power[key] = values
        elif not np.array_equal(old, values, equal_nan=True):
            laid_out.power[key] = values
