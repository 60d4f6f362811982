"""Recordings: Prometheus range-query results, columnar, and what they say in our vocabulary.

read_recording(file | bytes | dict) -> Recording            what Prometheus returned
observe([Recording, ...])           -> Observations         rates and watts, by node and container
check(Recording)                    -> Preflight            what can be trained, and why not
"""

from kepler_core.recording.assemble import observe
from kepler_core.recording.columns import Metric, Recording
from kepler_core.recording.observations import Observations
from kepler_core.recording.preflight import Preflight, check
from kepler_core.recording.reader import read_recording

__all__ = [
    "Metric",
    "Observations",
    "Preflight",
    "Recording",
    "check",
    "observe",
    "read_recording",
]
