"""Tests of readings that cannot be true: a finding names the series, and the watts are right or missing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from support import power_law
from support.power_law import CPU_TIME, Document, change, errors_of, observations_of

from kepler_core.arrays import FloatArray
from kepler_core.recording.findings import findings

MAX_ERROR = 0.01
PACKAGE, PLATFORM = "kepler_node_package_joules_total", "kepler_node_platform_joules_total"
Change = Callable[[FloatArray], FloatArray]


def jump(size: float, at: int = 120) -> Change:
    """Return a change that adds `size` to the values of sample number `at` and of all later samples."""
    return lambda values: values + np.where(np.arange(len(values)) >= at, size, 0.0)


def freeze(samples: int, *, catches_up: bool, at: int = 100) -> Change:
    """Return a change that lets a counter stand still for some samples, from sample number `at` on.

    If `catches_up` is true, the counter then jumps to its true value. Otherwise, the increases during the standstill
    are lost.
    """

    def changed(values: FloatArray) -> FloatArray:
        if catches_up:
            frozen = values.copy()
            frozen[at : at + samples] = values[at - 1]
            return frozen
        steps = np.diff(values, prepend=values[0])
        steps[at : at + samples] = 0.0
        return values[0] + np.cumsum(steps)

    return changed


def renew(every: int) -> Change:
    """Return a function that lets a counter change only at every `every`-th sample, and stand still in between."""
    return lambda values: values[np.arange(len(values)) // every * every]


def in_one_series(metric: str, changed: Change, series: int = -1) -> Callable[[Document], None]:
    return lambda document: change(document[metric][series], changed)


def in_all_series(word: str, changed: Change) -> Callable[[Document], None]:
    """Return a function that applies `changed` to all series of some metrics. Their names contain `word`."""

    def apply(document: Document) -> None:
        for metric in document:
            if word in metric:
                for series in document[metric]:
                    change(series, changed)

    return apply


def with_one_value(metric: str, value: float) -> Callable[[Document], None]:
    return in_one_series(metric, lambda values: np.where(np.arange(len(values)) == 77, value, values))


FAULTS: dict[str, tuple[Callable[[Document], None], str]] = {
    "a wrap counted twice, 2^32 times 61 uJ": (in_one_series(PACKAGE, jump(262_143.3)), "power_jumps"),
    "a wrap counted twice, 2^32 times 15.3 uJ": (in_one_series(PACKAGE, jump(65_532.6)), "power_jumps"),
    "a wrap counted twice, 2^32 uJ": (in_one_series(PACKAGE, jump(4294.97)), "power_jumps"),
    "usage jumps by 2^64": (in_one_series(CPU_TIME, jump(2.0**64)), "impossible_values"),
    "usage jumps by 2^63": (in_one_series(CPU_TIME, jump(2.0**63)), "unreadable"),
    "usage jumps by 2^32": (in_one_series(CPU_TIME, jump(2.0**32)), "usage_jumps"),
    "usage jumps by half a minute of all CPUs": (in_one_series(CPU_TIME, jump(60_000.0)), "usage_jumps"),
    "an invalid reading of hwmon": (with_one_value(PLATFORM, 4294967295.0), "impossible_values"),
    "an invalid reading of hwmon in microjoules": (with_one_value(PACKAGE, 4294.967295), "impossible_values"),
    "microjoules": (in_all_series("package", lambda values: values * 1e6), "impossible_power"),
    "millijoules": (in_all_series("platform", lambda values: values * 1e3), "impossible_power"),
    "a platform below its package": (in_all_series("platform", lambda values: values * 0.2), "contradicting_power"),
    "negative counters": (in_one_series(CPU_TIME, np.negative), "impossible_values"),
    "usage freezes": (in_all_series("container", freeze(40, catches_up=False)), "frozen_usage"),
    "usage freezes and catches up": (in_all_series("container", freeze(4, catches_up=True)), "frozen_usage"),
    "a meter freezes": (in_all_series("platform", freeze(10, catches_up=False)), "frozen_meters"),
    "a meter freezes and catches up": (in_all_series("platform", freeze(10, catches_up=True)), "frozen_meters"),
    "all meters freeze for three samples": (in_all_series("joules", freeze(3, catches_up=False)), "frozen_meters"),
    "a meter is renewed every third sample": (in_all_series("platform", renew(3)), "frozen_meters"),
    "a meter is renewed every tenth sample": (in_all_series("platform", renew(10)), "frozen_meters"),
}
NOT_TRAINABLE = {
    "microjoules": {"package"},
    "millijoules": {"platform"},
    "a platform below its package": {"platform", "package"},
    "negative counters": {"package", "dram", "platform"},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_gives_no_wrong_watts(fault: str, seed: int) -> None:
    content = power_law.document(seed=seed)
    apply, kind = FAULTS[fault]
    apply(content)
    observations = observations_of(content)
    errors = errors_of(observations)
    assert max(errors.values(), default=0.0) < MAX_ERROR
    assert set(errors) == set(power_law.LAW) - NOT_TRAINABLE.get(fault, set())
    (first, *_) = [finding for finding in findings(observations.counts) if finding.kind == kind]
    assert first.count > 0
    assert first.severity in ("error", "warning")


@pytest.mark.parametrize("seed", range(10))
def test_a_recording_without_fault_has_no_finding(seed: int) -> None:
    observations = observations_of(power_law.document(seed=seed, packages=1 + seed % 2))
    assert findings(observations.counts) == ()
    assert max(errors_of(observations).values()) < 1e-6


def test_a_socket_that_never_moves_leaves_its_component_out() -> None:
    content = power_law.document(packages=2)
    for series in content[PACKAGE]:
        if series["metric"]["package"] == "1":
            change(series, np.zeros_like)
    observations = observations_of(content)
    assert set(errors_of(observations)) == {"dram", "platform"}
    assert observations.counts.of("stuck_units")["rapl-sysfs package"] > 250


def test_a_burst_of_work_is_no_jump() -> None:
    """An interval with ten times the usual work gives no finding, because usage and power rise together."""
    content = power_law.document()
    watts = {"package": 0.02, "dram": 0.003, "platform": 0.03}
    work = 60_000.0
    for metric, factor in ((CPU_TIME, 1.0), ("cpu_cycles", 2.4e6), ("cpu_instructions", 2.0e6)):
        in_one_series(next(name for name in content if metric in name), jump(work * factor))(content)
    for component, slope in watts.items():
        in_one_series(f"kepler_node_{component}_joules_total", jump(work * slope))(content)
    observations = observations_of(content)
    assert findings(observations.counts) == ()
    assert max(errors_of(observations).values()) < 1e-6


def test_an_idle_node_without_any_usage_is_no_freeze() -> None:
    content = power_law.document()
    for metric in content:
        for series in content[metric]:
            if series["metric"].get("mode") != "idle":
                change(series, freeze(60, catches_up=False))
    observations = observations_of(content)
    assert findings(observations.counts) == ()
    assert max(errors_of(observations).values()) < 1e-6


def test_more_cpu_time_than_cpus() -> None:
    content = power_law.document()
    in_one_series(CPU_TIME, jump(10_000.0))(content)
    from kepler_core.recording import observe, read_recording

    recording = read_recording(content, name="recording")
    cpus = 4
    observations = observe([recording], cpus=cpus)
    usage = observations.node_features["bpf_cpu_time_ms"]
    assert np.nanmax(usage) <= cpus * 1000.0 * 1.1


@pytest.mark.parametrize(("interval", "step"), [(5, 3), (15, 4), (7, 3), (10, 4), (30, 7)])
def test_a_step_that_does_not_divide_the_scrape_interval(interval: int, step: int) -> None:
    content = power_law.document(samples=200, step=interval)
    for metric in content:
        for series in content[metric]:
            times = np.array([time for time, _ in series["values"]])
            grid = np.arange(times[0], times[-1] + 1, step)
            last = np.searchsorted(times, grid, side="right") - 1
            series["values"] = [[t, series["values"][at][1]] for t, at in zip(grid.tolist(), last, strict=True)]
    observations = observations_of(content)
    assert max(errors_of(observations).values()) < 1e-6
    assert observations.counts.of("corrected_times")["node-1"] > 100


def test_containers_that_live_for_one_scrape() -> None:
    content = power_law.document(containers=1)
    step, work = 3.0, 900.0
    n = len(content[CPU_TIME][0]["values"])
    for metric, factor in ((CPU_TIME, 1.0), ("cpu_cycles", 2.4e6), ("cpu_instructions", 2.0e6)):
        name = next(name for name in content if metric in name)
        for number in range(1, n, 2):
            time = content[name][0]["values"][number][0]
            labels = {**content[name][0]["metric"], "container_id": f"{number:064x}"}
            content[name].append({"metric": labels, "values": [[time, repr(work * step * factor)]]})
    for component, (_, slope) in power_law.LAW.items():
        steps = np.where(np.arange(n) % 2 == 1, work * slope * step, 0.0)
        in_one_series(f"kepler_node_{component}_joules_total", lambda values, s=steps: values + np.cumsum(s))(content)
    assert max(errors_of(observations_of(content)).values()) < 1e-6
