"""The running errors and other results of the served models, for `/healthz` and for the page of a decision."""

from __future__ import annotations

import msgspec

from kepler_servers.online_trainer.drift import WatchedModel, limit


class WatchedComponentState(msgspec.Struct):
    """Results of one component of a served model on the newest samples."""

    running_error: float
    """Mean absolute error in watts."""
    running_error_limit: float
    """Running error in watts above which the model has drifted."""
    interval_coverage: float | None
    """Fraction of the samples whose measured power is within its interval; null if the model states no intervals."""
    interval_half_width: float | None
    """Mean half-width of the intervals in watts; null if the model states no intervals."""


class WatchedModelState(msgspec.Struct):
    """A served model, and its errors and intervals on the newest samples."""

    source: str
    feature_group: str
    model: str
    interval_level: float | None
    """Probability with which an interval is meant to contain the true power; null if the model states no intervals."""
    samples_outside: float | None
    """Fraction of the samples with a feature outside its training range; null if there are too few samples."""
    disagreements: float | None
    """Fraction of the samples for which the watts of model and twin differ too much; null if there are few samples."""
    components: dict[str, WatchedComponentState]
    """Results of each component. Components with too few samples are left out."""


def watched_state(watched: WatchedModel) -> WatchedModelState:
    """Return the errors, and the coverage of the intervals, of a served model on the newest samples."""
    return WatchedModelState(
        watched.entry.source,
        watched.entry.feature_group,
        watched.entry.name,
        None if watched.honesty is None else watched.honesty.level,
        watched.outside_ratio(),
        watched.disagreement_ratio(),
        {
            component: WatchedComponentState(
                window.running_error, limit(watched.validated[component]), window.coverage, window.mean_half_width
            )
            for component, window in watched.known_windows().items()
        },
    )
