"""Train, select and apply models with the functions that the commands of `kepler-model` use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from accuracy_run.documents import Document
from accuracy_run.figures import Settings
from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.estimate import estimate
from kepler_core.pipeline import PipelineSpec, load_pipeline
from kepler_core.pipeline.observing import observe_for, read_for
from kepler_core.pipeline.report import Report
from kepler_core.pipeline.spec import PluginSpec
from kepler_core.pipeline.train import train
from kepler_core.recording import Observations
from kepler_core.selection import ModelRequest, read_catalogue
from kepler_core.store import Store, open_store
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import OutputType

SOURCE = "rapl-sysfs"
COMPONENT = "package"
COUNTERS = ("cache_miss", "cpu_cycles", "cpu_instructions")
CPU_TIME = ("bpf_cpu_time_ms",)
QUICK_TRAINERS = ("GradientBoostingRegressorTrainer", "LinearRegressionTrainer")


def default_spec(settings: Settings, name: str, output_type: OutputType, **changes: Any) -> PipelineSpec:
    """Return the pipeline `default` with the trainers of one output type. `changes` has new values of other keys."""
    spec = load_pipeline("default")
    own, other = ("abs_trainers", "dyn_trainers")[:: 1 if output_type == "AbsPower" else -1]
    keys: dict[str, Any] = {"name": name, "energy_sources": [SOURCE], other: [], **changes}
    if settings.quick:
        keys |= {"max_rows": 400, own: [PluginSpec(trainer) for trainer in QUICK_TRAINERS]}
        keys["validation"] = attrs.evolve(keys.get("validation", spec.validation), regimes=2)
    return attrs.evolve(spec, **keys)


def observed(spec: PipelineSpec, document: Document, name: str) -> Observations:
    """Return the observations that a training with this pipeline makes from the recording."""
    return observe_for(spec, [read_for(spec, document, name=name)])


def trained(settings: Settings, spec: PipelineSpec, documents: Sequence[Document]) -> tuple[Store, Report]:
    """Train a pipeline on recordings. Return its store and the report of the training."""
    store = open_store(str(settings.folder / spec.name))
    recordings = [read_for(spec, document, name=f"part {number}") for number, document in enumerate(documents)]
    return store, train(spec, observe_for(spec, recordings), store, jobs=settings.jobs)


def selected(store: Store, features: Sequence[str]) -> StoredModel:
    """Return the AbsPower model that is selected for a client that measures `features`."""
    request = ModelRequest("AbsPower", tuple(features), source=SOURCE, portable=True)
    return read_catalogue(store).select(request).model


@attrs.frozen(eq=False)
class Comparison:
    """Estimated and measured package power. All arrays have the shape (timestamps,)."""

    model: StoredModel
    time: FloatArray
    predicted: FloatArray
    measured: FloatArray
    half_width: FloatArray
    """Half-width of the interval in watts. The interval may begin below 0 W."""
    flags: tuple[str, ...]

    @property
    def mae(self) -> float:
        return float(np.abs(self.predicted - self.measured).mean())

    @property
    def coverage(self) -> float:
        """Fraction of the timestamps whose measured power is in the interval."""
        return float((np.abs(self.predicted - self.measured) <= self.half_width).mean())

    @property
    def width(self) -> float:
        """Mean full width of the interval in watts. Lower ends below 0 W are replaced by 0 W."""
        lower = np.maximum(self.predicted - self.half_width, 0)
        return float((self.predicted + self.half_width - lower).mean())

    def only(self, rows: BoolArray) -> Comparison:
        """Return a copy with only some timestamps. `rows` is a mask of shape (timestamps,) that selects them."""
        return attrs.evolve(
            self,
            time=self.time[rows],
            predicted=self.predicted[rows],
            measured=self.measured[rows],
            half_width=self.half_width[rows],
        )

    def values(self) -> dict[str, Any]:
        """Return the model's name and errors for the JSON output."""
        return {
            "model": f"{self.model.feature_group}/{self.model.name}",
            "mae": self.mae,
            "coverage": self.coverage,
            "width": self.width,
            "timestamps": len(self.time),
            "flags": list(self.flags),
        }


def compared(model: StoredModel, observations: Observations) -> Comparison:
    """Apply a model to observations of one node, as `kepler-model estimate` does."""
    result = estimate(model, observations)
    frame = result.frame.dropna(subset=[f"{COMPONENT}_measured"])
    predicted = frame[f"{COMPONENT}_predicted"].to_numpy()
    upper = frame.get(f"{COMPONENT}_upper")
    return Comparison(
        model,
        frame.index.get_level_values("timestamp").to_numpy(dtype=np.float64),
        predicted,
        frame[f"{COMPONENT}_measured"].to_numpy(),
        np.zeros(len(frame)) if upper is None else upper.to_numpy() - predicted,
        tuple(result.doubts["flags"]),
    )
