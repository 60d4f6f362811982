"""The observations that a pipeline trains from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from kepler_core.pipeline.spec import PipelineSpec
from kepler_core.recording import Observations, Recording, observe, read_recording
from kepler_core.recording.schemas import is_known_metric


def read_for(
    spec: PipelineSpec, source: str | Path | bytes | Mapping[str, Any], *, name: str | None = None
) -> Recording:
    """Read a recording with the samples of all metrics that the pipeline can use."""
    return read_known(source, spec.third_party, name=name)


def observe_for(spec: PipelineSpec, recordings: Sequence[Recording]) -> Observations:
    """Return the observations in recordings, taken at the level and with the metrics that the pipeline names.

    Observe an idle recording with this function too: its power is comparable with that of the other
    recordings only if both are taken at the same level, a virtual machine's or its node's.
    """
    return observe(recordings, use_vm_metrics=spec.use_vm_metrics, third_party=spec.third_party)


def read_known(
    source: str | Path | bytes | Mapping[str, Any], third_party: Collection[str] = (), *, name: str | None = None
) -> Recording:
    """Read a recording with the samples of all metrics that an installed schema or `third_party` names."""
    return read_recording(source, name=name, wanted=lambda metric: metric in third_party or is_known_metric(metric))
