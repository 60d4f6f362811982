"""Tests of the plugins for Scaphandre. Install the distribution first: Kepler Core finds plugins by entry points."""

import json

import numpy as np

from kepler_core.recording import observe, read_recording
from kepler_core.testing import parametrize_with_checks

START, STEP, N = 1_700_000_000, 5, 120
CORES = 8


@parametrize_with_checks("scaphandre-1")
def test_schema(check):
    check()


@parametrize_with_checks("scaphandre")
def test_energy_source(check):
    check()


def document():
    """Return a recording of two sockets and three processes, the true watts, and the true CPU usage in per cent.

    The power is 30 W plus 1.5 W for each per cent of CPU usage.
    """
    rng = np.random.default_rng(0)
    busy = np.abs(rng.uniform(0, 20, (3, N)))
    watts = 30 + 1.5 * busy.sum(axis=0)

    def series(values, **labels):
        times = START + STEP * np.arange(N)
        return {
            "metric": {"instance": "machine-1", "job": "scaphandre", **labels},
            "values": [[int(t), f"{v:.6f}"] for t, v in zip(times, values, strict=True)],
        }

    return (
        {
            "scaph_socket_power_microwatts": [series(watts / 2 * 1e6, socket_id=str(socket)) for socket in (0, 1)],
            "scaph_process_cpu_usage_percentage": [
                series(usage, pid=str(100 + number), exe=f"program-{number}") for number, usage in enumerate(busy)
            ],
            "scaph_host_load_avg_one": [series(np.ones(N))],
        },
        watts,
        busy,
    )


def with_node_exporter(content):
    """Return the recording with an additional metric of node_exporter, which shows the number of CPUs."""
    times = [START + STEP * number for number in range(N)]
    labels = {"instance": "machine-1:9100", "mode": "user"}
    cpus = [{"metric": {**labels, "cpu": str(cpu)}, "values": [[time, "7"] for time in times]} for cpu in range(CORES)]
    return {**content, "node_cpu_seconds_total": cpus}


def test_power_and_usage_are_read_in_our_units():
    content, watts, busy = document()
    observations = observe([read_recording(with_node_exporter(content), name="scaphandre")])
    assert "scaphandre-1" in observations.schemas
    np.testing.assert_allclose(observations.power["scaphandre", "package"], watts, rtol=1e-5)
    np.testing.assert_allclose(observations.node_features["bpf_cpu_time_ms"], busy.sum(axis=0) * 10 * CORES, rtol=1e-4)


def test_without_the_number_of_cpus_usage_is_no_feature():
    content, watts, _ = document()
    observations = observe([read_recording(content, name="scaphandre")])
    assert observations.schemas == ("scaphandre-1",)
    assert not observations.features
    assert observations.counts.of("unknown_shares")
    np.testing.assert_allclose(observations.power["scaphandre", "package"], watts, rtol=1e-5)


def test_validate_recognises_the_schema(kepler_run, tmp_path):
    recording, _, _ = document()
    (tmp_path / "recording.json").write_text(json.dumps(recording))
    done = kepler_run("validate", tmp_path / "recording.json", "--json")
    report = json.loads(done.stdout)
    assert report["schema"] == "scaphandre-1"
