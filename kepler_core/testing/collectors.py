"""Checks of collectors."""

from __future__ import annotations

import math

from kepler_core.errors import CollectorError
from kepler_core.metering import Observation
from kepler_core.plugins.arguments import create
from kepler_core.testing.checks import CheckFunction, Subject, require
from kepler_core.vocabulary import FEATURES


def provides_known_features(subject: Subject) -> None:
    """Check that `provides` is a tuple of features of `kepler_core.vocabulary`."""
    provides = subject.plugin.provides
    require(
        isinstance(provides, tuple) and provides,
        f'provides is {provides!r}; write a tuple, e.g. provides = ("bpf_cpu_time_ms",)',
    )
    unknown = [feature for feature in provides if feature not in FEATURES]
    require(not unknown, f"provides: {unknown} are no features of kepler_core.vocabulary")


def measures_or_says_why_not(subject: Subject) -> None:
    """Check that two calls of `collect` return finite values of provided features.

    The check also passes if `open` raises `CollectorError` with a reason.
    """
    collector = create(subject.plugin, subject.name, subject.arguments)
    try:
        try:
            collector.open()
        except CollectorError as error:
            require(error.message.strip(), "open: the CollectorError has no text")
            return
        observations = [collector.collect(), collector.collect()]
    finally:
        collector.close()
        collector.close()
    for observation in observations:
        require(isinstance(observation, Observation), f"collect returned {observation!r}, not an Observation")
        for feature, value in observation.features.items():
            require(feature in subject.plugin.provides, f"collect: `provides` lacks the feature {feature}")
            require(math.isfinite(value) and value >= 0, f"collect: {feature} is {value!r}; leave out unknown values")
    require(not observations[0].features, "collect: the first call has no period, so it must return no features")


CHECKS: tuple[CheckFunction, ...] = (provides_known_features, measures_or_says_why_not)
