"""Find the offset between the clocks of a host and of a guest.

The two clocks may differ. Kepler also reports watts later than the work is done: a window (the time between two
readings) ends when the metrics are read. `align` chooses the offset with which changes of the guest's CPU time best
explain changes of the host's watts.

For each offset, the guest's CPU time is averaged over the shifted windows of the host, and the watts are fitted with a
line. The residuals of neighbouring windows are correlated. So the line is fitted to the changes w(t) − ρ·w(t − 1),
where ρ is the number from 0 to 0.95 that fits best (Cochrane and Orcutt, 1949).

The 90 % interval of the offset contains all offsets that fit nearly as well as the best offset. They are those for
which twice the difference of the log-likelihoods is below the 90 % quantile of χ² (one degree of freedom).
"""

from __future__ import annotations

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.errors import KeplerError, close_matches
from kepler_core.pairs.guest import GuestUsage
from kepler_core.pairs.host import HostWindows

LARGEST_OFFSET_SECONDS = 15.0
STEP_SECONDS = 0.1
FEWEST_WINDOWS = 30
"""Minimum number of windows that both recordings cover. With fewer windows, the offset is not estimated."""
WITHIN = 2.71
"""An offset belongs to the 90 % interval if twice its log-likelihood is at most this number below that of the best
offset. The number is the 90 % quantile of the χ² distribution with one degree of freedom."""
PEAK_SECONDS = 1.5
"""An offset counts as distant if it differs from the best offset by more than this time plus the length of a window.
All distant offsets must fit clearly worse (`LEAST_ADVANTAGE`)."""
LEAST_ADVANTAGE = 6.63
"""Twice the log-likelihood of each distant offset must be at least this number below that of the best offset. The
number is the 99 % quantile of the χ² distribution with one degree of freedom."""
LEAST_EFFECT = 20.0
"""If the watts follow the CPU time, a line over the CPU time fits them better than a constant: twice its log-likelihood
is higher by at least this number."""
LOADS = ("bpf_cpu_time_ms", "cpu_instructions", "cpu_cycles", "task_clock_ms")
"""Features that can be compared with the watts, in order of preference."""
_CORRELATIONS = np.arange(0.0, 0.96, 0.05)


class AlignmentError(KeplerError):
    """The offset of the clocks cannot be determined from the recordings."""


@attrs.frozen
class Alignment:
    """The offset between the clocks of a guest and its host."""

    offset: float
    """Time of the host − time of the guest at the same moment of work, in seconds."""
    lower: float
    """Lower end of the 90 % interval of the offset; equal to `offset` if the user gave the offset."""
    upper: float
    windows: int
    """Number of windows that were compared."""
    feature: str
    """The guest's feature that was compared with the watts."""
    estimated: bool = True

    def __str__(self) -> str:
        if not self.estimated:
            return f"offset of the clocks: {self.offset:.1f} s (given)"
        direction = "ahead of" if self.offset >= 0 else "behind"
        return (
            f"the guest is {abs(self.offset):.1f} s {direction} the host (90 % interval of the offset "
            f"{self.lower:.1f} to {self.upper:.1f} s, {self.windows} windows, {self.feature})"
        )


def given_offset(offset: float, guest: GuestUsage) -> Alignment:
    """Return an alignment with an offset that the user knows."""
    return Alignment(offset, offset, offset, 0, load_of(guest), estimated=False)


def align(host: HostWindows, guest: GuestUsage, largest: float = LARGEST_OFFSET_SECONDS) -> Alignment:
    """Estimate the offset of the clocks. The function tries the offsets from −`largest` to `largest` seconds.

    Raises `AlignmentError` with the reason if the offset cannot be determined.
    """
    feature = load_of(guest)
    watts = next(iter(host.watts.values()))
    steps = round(largest / STEP_SECONDS)
    offsets: FloatArray = np.arange(-steps, steps + 1, dtype=np.float64) * STEP_SECONDS
    loads = np.array([guest.means(feature, host.start - offset, host.end - offset) for offset in offsets])
    known: BoolArray = np.isfinite(loads).all(axis=0) & np.isfinite(watts)
    if known.sum() < FEWEST_WINDOWS:
        raise AlignmentError(
            f"only {int(known.sum())} windows of the host are in the guest's recording with every offset up to "
            f"{largest:g} s; at least {FEWEST_WINDOWS} are needed. {_clocks(host, guest)}"
        )
    if float(np.ptp(loads[len(offsets) // 2, known])) <= 0:
        raise AlignmentError(
            f"the guest's {feature} is constant; record while the guest's load changes every few seconds"
        )
    fits = np.array([_fit(load[known], watts[known]) for load in loads])
    none = _fit(np.zeros(int(known.sum())), watts[known])
    best = int(np.argmax(fits))
    _require_clear(offsets, fits, best, none, float(np.median(host.end - host.start)), largest)
    within = offsets[fits >= fits[best] - WITHIN]
    near = within[np.abs(within - offsets[best]) <= PEAK_SECONDS + float(np.median(host.end - host.start))]
    return Alignment(round(float(offsets[best]), 3), float(near.min()), float(near.max()), int(known.sum()), feature)


def load_of(guest: GuestUsage) -> str:
    """Return the guest's feature that is compared with the watts. Raises `AlignmentError` if there is none."""
    feature = next((name for name in LOADS if name in guest.features and np.nanmax(guest.features[name]) > 0), None)
    if feature is None:
        hint = close_matches(LOADS[0], guest.features)
        raise AlignmentError(f"the guest's recording has none of {', '.join(LOADS)}; {hint}")
    return feature


def _require_clear(
    offsets: FloatArray, fits: FloatArray, best: int, none: float, window: float, largest: float
) -> None:
    if fits[best] - none < LEAST_EFFECT:
        raise AlignmentError(
            "the watts do not follow the guest's CPU time with any offset: are both recordings of the same virtual "
            "machine, and at the same time?"
        )
    if best in (0, len(offsets) - 1):
        raise AlignmentError(
            f"the best offset is at the end of the searched range (±{largest:g} s): set the clocks, or search further "
            "with --largest-offset"
        )
    others = np.abs(offsets - offsets[best]) > PEAK_SECONDS + window
    if not others.any() or fits[best] - fits[others].max() >= LEAST_ADVANTAGE:
        return
    second = offsets[others][int(np.argmax(fits[others]))]
    raise AlignmentError(
        f"two offsets fit nearly equally well: {offsets[best]:.1f} s and {second:.1f} s. Record longer, with a load "
        "that does not repeat, or give the offset with --offset"
    )


def _fit(load: FloatArray, watts: FloatArray) -> float:
    """Return twice the log-likelihood of the best line with a slope ≥ 0, without the constant term.

    The residuals of the line may be correlated in time.
    """
    best = -np.inf
    for correlation in _CORRELATIONS:
        x = load[1:] - correlation * load[:-1]
        y = watts[1:] - correlation * watts[:-1]
        x, y = x - x.mean(), y - y.mean()
        spread = float(x @ x)
        slope = max(float(x @ y) / spread, 0.0) if spread > 0 else 0.0
        residual = y - slope * x
        variance = max(float(residual @ residual) / len(y), 1e-12)
        best = max(best, -len(y) * float(np.log(variance)))
    return best


def _clocks(host: HostWindows, guest: GuestUsage) -> str:
    apart = max(float(guest.time[0] - host.end[-1]), float(host.start[0] - guest.time[-1]))
    if apart > 0:
        return f"The recordings are {apart:.0f} s apart: record host and guest at the same time"
    both = min(guest.time[-1], host.end[-1]) - max(guest.time[0], host.start[0])
    return f"Both recordings have {both:.0f} s in common: record longer"
