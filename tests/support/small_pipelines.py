"""Small pipelines for tests, whose models have known weights.

The function `evaluate` calculates watts from weights as Kepler does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import attrs

from kepler_core.selection import Catalogue
from kepler_core.selection.reading import read_pipeline_models
from kepler_core.store import Snapshot
from kepler_core.store.layout import zip_bytes
from kepler_profiler.similarity import SpecTable

CAPTURED: dict[str, Any] = {
    "metrics": [
        "bpf_cpu_time_ms", "bpf_net_tx_irq", "bpf_net_rx_irq", "bpf_block_irq", "bpf_page_cache_hit",
        "cpu_architecture",
    ],
    "output_type": "AbsPower",
    "source": "intel_rapl",
    "node_type": 0,
    "weight": True,
    "trainer_name": "SGDRegressorTrainer",
    "filter": "",
    "machine_spec": {
        "vendor": "genuineintel", "processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2,
        "memory": 381, "frequency": 3500, "threads_per_core": 2,
    },
}  # fmt: skip
"""A request for a model, captured from Kepler 0.7."""

BPF = ("bpf_cpu_time_ms", "bpf_page_cache_hit")
COUNTERS = ("cache_miss", "cpu_cycles", "cpu_instructions")
GROUPS = {"BPFOnly": BPF, "CounterOnly": COUNTERS, "Basic": (*COUNTERS, *BPF)}


def linear(bias: float = 10.0, weights: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Return linear weights in the form in which Kepler gets the weights of a component. All scales are 1000."""
    watts = {"bpf_cpu_time_ms": 1.0} if weights is None else weights
    return {
        "All_Weights": {
            "Categorical_Variables": {},
            "Numerical_Variables": {name: {"scale": 1000.0, "weight": weight} for name, weight in watts.items()},
            "Bias_Weight": bias,
        }
    }


def curve(weights: Sequence[float], feature: str = "bpf_cpu_time_ms", scale: float = 1.0) -> dict[str, Any]:
    """Return the weights of a component whose power is a curve of one feature, in Kepler's JSON form."""
    return {
        "All_Weights": {
            "Categorical_Variables": {},
            "Numerical_Variables": {feature: {"scale": scale}},
            "CurveFit_Weights": list(weights),
        }
    }


@attrs.frozen
class SmallModel:
    """A made-up model that has the same files as a trained model."""

    trainer: str = "SGDRegressorTrainer"
    node_type: int = 0
    source: str = "rapl-sysfs"
    output_type: str = "AbsPower"
    group: str = "BPFOnly"
    mae: float = 1.0
    features: tuple[str, ...] | None = None
    weights: Mapping[str, Any] | None = attrs.field(factory=lambda: {"package": linear(), "dram": linear(2.0)})
    data: str | None = None
    """Digest of the data on which the model's errors were measured.

    If it is None, the metadata contain neither a digest nor a validation.
    """
    constant_mae: float | None = None
    more: Mapping[str, Any] = attrs.field(factory=dict)
    """Further keys and values of the model's metadata."""

    @property
    def name(self) -> str:
        return f"{self.trainer}_{self.node_type}"

    @property
    def path(self) -> str:
        return f"{self.source}/{self.output_type}/{self.group}/{self.name}"

    def files(self) -> dict[str, bytes]:
        """Return the model's files in a pipeline, by path."""
        metadata: dict[str, Any] = {
            "model_name": self.name,
            "trainer": self.trainer,
            "output_type": self.output_type,
            "features": list(self.features or GROUPS.get(self.group, BPF)),
            "mae": self.mae,
            "mape": 10 * self.mae,
            "package_mae": self.mae,
            "dram_mae": self.mae / 2,
        }
        if self.data is not None:
            metadata["lineage"] = {"data": self.data}
            package: dict[str, Any] = {"r2": 1 - self.mae / 100, "constant_mae": self.constant_mae}
            if self.mae >= 0:
                package["mae"] = self.mae
            metadata["validation"] = {"timestamps": 100, "components": {"package": package}}
        content = {"metadata.json": json.dumps({**metadata, **self.more}).encode()}
        if self.weights is not None:
            content["weight.json"] = json.dumps(self.weights).encode()
        files = {f"{self.path}/{name}": data for name, data in content.items()}
        files[f"{self.path}.zip"] = zip_bytes(content)
        if self.weights is not None:
            files[f"{self.path}.json"] = content["weight.json"]
        return files


def pipeline(*models: SmallModel, node_types: Mapping[int, Mapping[str, Any]] | None = None) -> dict[str, bytes]:
    """Return all files of a pipeline with these models, by path."""
    specs = {0: {}} if node_types is None else node_types
    index = {str(number): {"attrs": spec, "members": [f"node-{number}"]} for number, spec in specs.items()}
    files = {"metadata.json": b'{"name":"made"}', "node_type_index.json": json.dumps(index).encode()}
    for model in models:
        files |= model.files()
    return files


def _read(files: Mapping[str, bytes], name: str, max_bytes: int) -> bytes:
    assert len(files[name]) <= max_bytes
    return files[name]


def catalogue(*models: SmallModel, error_key: str = "mae", **pipelines: dict[str, bytes]) -> Catalogue:
    """Return a catalogue of pipelines.

    `models` become the pipeline `made`. Each value of `pipelines` has the files of a further pipeline.
    """
    if models:
        pipelines["made"] = pipeline(*models)
    stored, node_types = [], {}
    for name, files in sorted(pipelines.items()):
        read = partial(_read, files)
        snapshot = Snapshot(name, 1, name, None, frozenset(files), read)
        of_pipeline, node_types[name] = read_pipeline_models(snapshot)
        stored += of_pipeline
    return Catalogue(stored, node_types, {}, compare=SpecTable, error_key=error_key, location="made up")


# --- how Kepler evaluates weights ---


def evaluate(answer: Mapping[str, Any], columns: Mapping[str, Sequence[float]], first: str) -> dict[str, list[float]]:
    """Return the watts of each component and row, calculated with Kepler's formulas.

    `first` is the first feature in Kepler's list of features. Kepler uses it as the feature of all curves, even if a
    curve was fitted over another feature.
    """
    trainer = answer["model_name"].split("_")[0]
    rows = len(next(iter(columns.values())))
    names = ["platform"] if "platform" in answer else ["package", "core", "uncore", "dram"]
    watts: dict[str, list[float]] = {}
    for component in (name for name in names if name in answer):
        weights = answer[component]["All_Weights"]
        fit = weights.get("CurveFit_Weights")
        values = []
        for row in range(rows):
            x = columns[first][row]
            if trainer == "LogarithmicRegressionTrainer":
                a, b, c = fit
                value = a * _log(b * x + 1) + c
            elif trainer == "ExponentialRegressionTrainer":
                a, b, c = fit
                value = a * _exp(b * x) + c
            elif trainer == "LogisticRegressionTrainer":
                height, x0, k, offset = fit
                value = offset + height / (1 + _exp(-k * (x - x0)))
            else:
                assert trainer == "SGDRegressorTrainer", "Kepler panics"
                value = weights["Bias_Weight"]
                for feature, variable in weights["Numerical_Variables"].items():
                    if variable["scale"] != 0 and feature in columns:
                        value += variable["weight"] * columns[feature][row] / variable["scale"]
            values.append(value)
        watts[component] = values
    return watts


# The following functions return infinity or NaN, like Go's functions. Python's functions would raise an error.


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _log(x: float) -> float:
    if x > 0:
        return math.log(x)
    return -math.inf if x == 0 else math.nan
