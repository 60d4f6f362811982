"""Read recordings into columns, and express their contents in Kepler Core's vocabulary.

read_recording(file or bytes) -> Recording       samples by metric, with Prometheus' names and units
observe([Recording, ...])     -> Observations    rates by container, rates and watts by node
check(Recording)              -> Preflight       which models can be trained, and why the others cannot
"""

from kepler_core.recording.assemble import observe
from kepler_core.recording.columns import Metric, Recording
from kepler_core.recording.observations import Observations
from kepler_core.recording.parts import RecordingParts
from kepler_core.recording.preflight import Preflight, check
from kepler_core.recording.reader import read_recording

__all__ = [
    "Metric",
    "Observations",
    "Preflight",
    "Recording",
    "RecordingParts",
    "check",
    "observe",
    "read_recording",
]
