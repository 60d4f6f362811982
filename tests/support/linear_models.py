"""Makes small stores of linear models. A test can calculate the watts of these models itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from kepler_core.store.layout import pipeline_files
from kepler_core.store.local import LocalStore
from support.small_pipelines import BPF

SCALE = 2.0**20
"""Number by which all features are divided. It is large, so a test fails if features are not scaled. It is a power of
two, so the division is exact. A feature above 1.05 times the scale counts as 1.05 times the scale."""
MACHINE: dict[str, Any] = {"vendor": "genuineintel", "processor": "made_up", "cores": 32, "chips": 2, "memory": 128}


@attrs.frozen
class LinearModel:
    """A linear model of Kepler Core. The watts of a component are bias + Σ weight · feature."""

    trainer: str = "SGDRegressorTrainer"
    source: str = "rapl-sysfs"
    output_type: str = "AbsPower"
    group: str = "BPFOnly"
    mae: float = 1.0
    features: tuple[str, ...] = BPF
    watts: Mapping[str, tuple[float, Mapping[str, float]]] = attrs.field(
        factory=lambda: {
            "package": (50.0, {"bpf_cpu_time_ms": 0.01, "bpf_page_cache_hit": 0.001}),
            "core": (0.0, {}),
            "uncore": (0.0, {}),
            "dram": (8.0, {"bpf_page_cache_hit": 0.002}),
        }
    )
    """For each component: bias in watts, and weight of each feature in watts per unit of the feature."""
    lowest: float | None = None
    """Lowest value of each feature in training, or None if it is not known."""
    honesty: Mapping[str, Any] | None = None
    """The block `honesty` (errors and intervals) of the model's metadata; None for no block."""

    @property
    def name(self) -> str:
        return f"{self.trainer}_0"

    def stored(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Return the model's metadata and its files as a store contains them."""
        metadata: dict[str, Any] = {
            "model_name": self.name,
            "trainer": self.trainer,
            "model_class": "weights",
            "model_file": "model.json",
            "features": list(self.features),
            "feature_group": self.group,
            "fe_files": [],
            "source": self.source,
            "output_type": self.output_type,
            "node_type": 0,
            "machine_spec": MACHINE,
            "mae": self.mae,
            "mape": 10 * self.mae,
        }
        if self.honesty is not None:
            metadata["honesty"] = dict(self.honesty)
        files: dict[str, bytes] = {}
        components: dict[str, Any] = {}
        for component, (bias, weights) in self.watts.items():
            components[component] = {"ceiling": 1e5, "format": "weights", "file": f"{component}.json"}
            scaled = {name: SCALE * weight for name, weight in weights.items()}
            files[f"{component}.json"] = json.dumps({"type": "linear", "weights": scaled, "bias": bias}).encode()
        layout: dict[str, Any] = {"layout": 1, "features": list(self.features), "scale": [SCALE] * len(self.features)}
        if self.lowest is not None:
            layout["lowest"] = [self.lowest] * len(self.features)
        files["model.json"] = json.dumps({**layout, "components": components}).encode()
        files["metadata.json"] = json.dumps(metadata).encode()
        return metadata, files

    def expected(self, metrics: Sequence[str], values: Sequence[Sequence[float]]) -> dict[str, list[float]]:
        """Return the watts of each component that the model must predict, calculated in double precision."""
        rows = [dict(zip(metrics, row, strict=True)) for row in values]
        return {
            component: [bias + sum(weight * row[name] for name, weight in weights.items()) for row in rows]
            for component, (bias, weights) in self.watts.items()
        }


ABS = LinearModel()
DYN = LinearModel(
    output_type="DynPower",
    watts={
        "package": (0.0, {"bpf_cpu_time_ms": 0.01, "bpf_page_cache_hit": 0.001}),
        "dram": (0.0, {"bpf_page_cache_hit": 0.002}),
    },
)
PLATFORM = LinearModel(source="acpi", watts={"platform": (100.0, {"bpf_cpu_time_ms": 0.02})})
ALL = (ABS, DYN, PLATFORM)
OTHER = LinearModel(watts={"package": (1.0, {}), "dram": (2.0, {"bpf_page_cache_hit": 1.0})})
"""A model for the same requests as the model `ABS`, but with other watts."""


def files_of(*models: LinearModel, machine: Mapping[str, Any] = MACHINE) -> dict[str, bytes]:
    """Return the files of a pipeline with these models, all for the machine `machine`."""
    return pipeline_files(
        [model.stored() for model in models],
        {"name": "made"},
        {"0": {"attrs": dict(machine), "members": ["made-up"]}},
    )


def publish(store: Path, *models: LinearModel, name: str = "made", machine: Mapping[str, Any] = MACHINE) -> None:
    """Publish a new version of a pipeline with these models."""
    LocalStore(store).publish(name, files_of(*models, machine=machine))
