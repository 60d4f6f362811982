"""Recordings of Prometheus in columns, and their contents in Kepler Core's vocabulary.

read_recording(file or bytes) -> Recording       samples by metric, as Prometheus returned them
observe([Recording, ...])     -> Observations    rates and watts by node and container
check(Recording)              -> Preflight       what can be trained, and why the rest cannot
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
