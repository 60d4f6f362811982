"""Tests of recordings whose series contradict each other: the watts are right or missing, and a finding names the
series."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from support import power_law
from support.power_law import Document, change, errors_of, observations_of

from kepler_core.arrays import FloatArray
from kepler_core.recording import Observations
from kepler_core.recording.findings import findings

MAX_ERROR = 0.02
PACKAGE, DRAM, PLATFORM = (f"kepler_node_{component}_joules_total" for component in ("package", "dram", "platform"))
ALL = {"package", "dram", "platform"}
Damage = Callable[[Document], None]


def values_of(series: dict[str, object]) -> FloatArray:
    samples = series["values"]
    assert isinstance(samples, list)
    return np.array([float(value) for _, value in samples])


def in_metrics(word: str, changed: Callable[[FloatArray], FloatArray]) -> Damage:
    """Return a function that changes all series of the metrics whose names contain `word`."""

    def damage(document: Document) -> None:
        for metric in document:
            if word in metric:
                for series in document[metric]:
                    change(series, changed)

    return damage


def add_copies(word: str, factor: float = 1.0, **labels: str) -> Damage:
    """Return a function that adds a copy of each series of some metrics.

    The metrics are those whose names contain `word`. The values of a copy are multiplied by `factor`, and `labels`
    replace its labels.
    """

    def damage(document: Document) -> None:
        for metric in document:
            if word in metric:
                for series in list(document[metric]):
                    other = copy.deepcopy(series)
                    change(other, lambda values: values * factor)
                    for label, value in labels.items():
                        other["metric"][label] = value.format(**series["metric"])
                    document[metric].append(other)

    return damage


def add_total(metric: str, **labels: str | None) -> Damage:
    """Return a function that adds one series to a metric. Its values are the sums of the metric's other series.

    The new series has the labels of the first series, changed by `labels`. None removes a label.
    """

    def damage(document: Document) -> None:
        total = copy.deepcopy(document[metric][0])
        whole = np.sum([values_of(series) for series in document[metric]], axis=0)
        change(total, lambda values: whole)
        for label, value in labels.items():
            if value is None:
                del total["metric"][label]
            else:
                total["metric"][label] = value
        document[metric].append(total)

    return damage


def add_root_container(document: Document) -> None:
    for metric in document:
        if "container" in metric:
            add_total(metric, container_id="/")(document)


def mirror(metric: str, of: str) -> Damage:
    def damage(document: Document) -> None:
        for series, other in zip(document[metric], document[of], strict=True):
            series["values"] = copy.deepcopy(other["values"])

    return damage


def scaled(factor: float, since: int = 150) -> Callable[[FloatArray], FloatArray]:
    """Return a function that multiplies the increases of a counter by `factor`, beginning at sample `since`."""

    def changed(values: FloatArray) -> FloatArray:
        steps = np.diff(values, prepend=values[0])
        steps[since:] *= factor
        return values[0] + np.cumsum(steps)

    return changed


def frozen(first: int, last: int) -> Callable[[FloatArray], FloatArray]:
    def changed(values: FloatArray) -> FloatArray:
        steps = np.diff(values, prepend=values[0])
        steps[first:last] = 0.0
        return values[0] + np.cumsum(steps)

    return changed


def without(*metrics: str) -> Damage:
    def damage(document: Document) -> None:
        for metric in metrics:
            del document[metric]

    return damage


def both(*damages: Damage) -> Damage:
    def damage(document: Document) -> None:
        for one in damages:
            one(document)

    return damage


def falls(values: FloatArray) -> FloatArray:
    """Let a counter fall by 2.5 usual increases at every tenth sample.

    Such counters come from two replicas of a Prometheus server whose samples were merged.
    """
    usual = float(np.median(np.diff(values)))
    old = values + 1000 * usual
    return old - np.where(np.arange(len(values)) % 10 == 5, 2.5 * usual, 0.0)


def set_clock_back(document: Document) -> None:
    """Set the clock back by 100 samples in the middle of the recording."""
    for metric in document:
        for series in document[metric]:
            late = series["values"][150:]
            series["values"] = series["values"][:150] + [[time - 300.0, value] for time, value in late]


def rate(values: FloatArray) -> FloatArray:
    return np.diff(values, prepend=values[0]) / 3.0


CASES: dict[str, tuple[Damage, str, set[str]]] = {
    "DRAM mirrors the package": (mirror(DRAM, PACKAGE), "mirrored_power", {"platform"}),
    "the platform mirrors the package": (mirror(PLATFORM, PACKAGE), "mirrored_power", {"dram"}),
    "usage in another unit": (in_metrics("container", scaled(1000.0)), "usage_shifts", set()),
    "dies of a socket": (add_copies(PACKAGE, 0.5, die="1"), "ambiguous_series", {"dram", "platform"}),
    "usage of each CPU": (add_copies("container", 0.5, cpu="1"), "ambiguous_series", set()),
    "a total over modes": (add_total(PACKAGE, mode=None), "totals", ALL),
    "a mode named total": (add_total(PLATFORM, mode="total"), "totals", ALL),
    "a root cgroup": (add_root_container, "totals", ALL),
    "one container under two ids": (
        add_copies("container", container_id="cri-containerd-{container_id}.scope"),
        "duplicates",
        ALL,
    ),
    "rates of energy": (in_metrics("joules", rate), "no_counters", set()),
    "rates of usage": (in_metrics("container", rate), "no_counters", set()),
    "counters of 32 bits": (in_metrics("cpu_cycles", lambda values: values % 2.0**32), "no_counters", ALL),
    "counters fall a little": (in_metrics("container", falls), "falls", ALL),
    "the clock is set back": (set_clock_back, "conflicting_times", set()),
    "the package is not measured": (in_metrics("package", np.zeros_like), "frozen_meters", {"dram", "platform"}),
    "DRAM is not measured": (in_metrics("dram", np.zeros_like), "frozen_meters", {"package", "platform"}),
    "the package freezes alone": (in_metrics("package", frozen(100, 160)), "frozen_meters", ALL),
    "DRAM stops": (in_metrics("dram", frozen(200, 300)), "frozen_meters", ALL),
    "cycles stop": (in_metrics("cpu_cycles", frozen(200, 300)), "frozen_usage", ALL),
    "a platform in kilojoules": (
        both(without(PACKAGE, DRAM), in_metrics("joules", lambda values: values / 1e3)),
        "impossible_power",
        set(),
    ),
    "a platform that is not measured": (
        both(without(PACKAGE, DRAM), in_metrics("joules", np.zeros_like)),
        "frozen_meters",
        set(),
    ),
    "DRAM times ten": (in_metrics("dram", lambda values: values * 10), "contradicting_power", set()),
}


def errors(observations: Observations) -> dict[str, float]:
    return errors_of(observations) if "bpf_cpu_time_ms" in observations.node_features else {}


def largest_error(observations: Observations) -> float:
    return max(errors(observations).values(), default=0.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_a_contradiction_is_named_and_gives_no_wrong_watts(case: str, seed: int) -> None:
    content = power_law.document(seed=seed)
    damage, kind, remaining = CASES[case]
    damage(content)
    observations = observations_of(content)
    assert largest_error(observations) < MAX_ERROR
    assert set(errors(observations)) == remaining
    assert any(finding.kind == kind for finding in findings(observations.counts))


def test_cpu_time_in_microseconds_is_left_out() -> None:
    content = power_law.document()
    in_metrics("cpu_time", scaled(1000.0, since=200))(content)
    observations = observations_of(content)
    assert largest_error(observations) < MAX_ERROR
    assert observations.counts.of("few_cycles")["bpf_cpu_time_ms"] > 90


@pytest.mark.parametrize("seed", [0, 2])
def test_usage_that_counts_ten_times_as_much_is_left_out(seed: int) -> None:
    content = power_law.document(seed=seed)
    in_metrics("container", scaled(10.0))(content)
    observations = observations_of(content)
    assert not errors(observations)
    assert set(observations.counts.of("usage_shifts")) == {"bpf_cpu_time_ms", "cpu_cycles"}


def test_cycles_that_stop_are_left_out() -> None:
    content = power_law.document()
    in_metrics("cpu_cycles", frozen(200, 300))(content)
    cycles = observations_of(content).node_features["cpu_cycles"]
    assert np.isfinite(cycles[1:200]).all()
    assert np.isnan(cycles[200:]).all()


def test_replicas_with_other_times_are_no_other_counters() -> None:
    """Series of a second Prometheus server count as duplicates.

    The second server scrapes one second later, and adds a label of its own to the series.
    """
    content = power_law.document()
    times = np.arange(300) * 3.0
    for metric in content:
        for series in list(content[metric]):
            later = copy.deepcopy(series)
            change(later, lambda values: np.interp(times + 1.0, times, values))
            later["metric"]["replica"] = "b"
            series["metric"]["replica"] = "a"
            content[metric].append(later)
    observations = observations_of(content)
    assert {finding.kind for finding in findings(observations.counts)} == {"duplicates"}
    assert set(errors_of(observations)) == ALL


def test_work_of_other_kinds_is_no_change_of_the_unit() -> None:
    """If a container does other work, Kepler Core must not report that the unit of its usage has changed.

    In this test, the new work draws three times the power for the same CPU time.
    """
    content = power_law.document()
    in_metrics("cpu_time", scaled(1 / 3))(content)
    assert not observations_of(content).counts.of("usage_shifts")


def test_a_container_with_half_of_the_work_is_no_total() -> None:
    content = power_law.document(containers=2)
    for metric in content:
        if "container" in metric:
            first, second = content[metric]
            second["values"] = copy.deepcopy(first["values"])
    assert not observations_of(content).counts.of("totals")
