"""Make model stores for benchmarks: made-up stores of any size, and a store with trained models.

    python bench/generated_stores.py STORE MODELS NODE_TYPES

The command publishes a pipeline with MODELS small linear models of NODE_TYPES node types in the folder STORE.
The models are made up, but have the same files and the same metadata keys as trained models.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CAPTURED: dict[str, Any] = {
    "metrics": [
        "bpf_cpu_time_ms", "bpf_net_tx_irq", "bpf_net_rx_irq", "bpf_block_irq", "bpf_page_cache_hit", "cpu_architecture"
    ],
    "output_type": "AbsPower", "source": "intel_rapl", "node_type": 0, "weight": True,
    "trainer_name": "SGDRegressorTrainer", "filter": "",
    "machine_spec": {
        "vendor": "genuineintel", "processor": "intel_xeon_platinum_8259cl", "cores": 96, "chips": 2,
        "memory": 381, "frequency": 3500, "threads_per_core": 2,
    },
}  # fmt: skip


def memory_folder() -> str | None:
    """Return the RAM file system /dev/shm; None if it is not writable or has less than 1 GiB free.

    On a disk, publishing the largest store would be slow, because 78,000 files would be flushed.
    """
    folder = "/dev/shm"
    roomy = os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 2**30
    return folder if roomy else None


def machines(count: int) -> list[dict[str, Any]]:
    """Return the specs of `count` different machines. The first machine is that of the request `CAPTURED`."""
    captured = CAPTURED["machine_spec"]
    specs = [{key: captured[key] for key in ("processor", "cores", "chips", "memory", "frequency")}]
    rng = random.Random(0)
    while len(specs) < count:
        vendor, family = rng.choice((("intel", "xeon_platinum"), ("intel", "xeon_gold"), ("amd", "epyc")))
        spec = {
            "processor": f"{vendor}_{family}_{rng.randrange(6000, 9500, 10)}{rng.choice('clmy')}",
            "cores": 2 ** rng.randint(2, 7),
            "chips": rng.choice((1, 2, 4)),
            "memory": rng.choice((15, 31, 61, 123, 247, 495)),
            "frequency": rng.randrange(2000, 4000, 100),
        }
        if spec not in specs:
            specs.append(spec)
    return specs


def publish(root: str, models: int, node_types: int) -> None:
    """Publish a pipeline with `models` made-up linear models of `node_types` node types."""
    from kepler_core.store.layout import pipeline_files
    from kepler_core.store.local import LocalStore
    from kepler_core.vocabulary import FEATURE_GROUPS, OUTPUT_TYPES, PLATFORM_COMPONENTS, RAPL_COMPONENTS

    specs = machines(node_types)
    rng = random.Random(1)
    combinations = itertools.product(
        (("rapl-sysfs", RAPL_COMPONENTS), ("acpi", PLATFORM_COMPONENTS)),
        OUTPUT_TYPES,
        ("BPFOnly", "CounterOnly", "Basic", "BPFIRQ", "CounterIRQCombined"),
        ("SGDRegressorTrainer", "LinearRegressionTrainer"),
        range(node_types),
    )
    published = [
        linear_model(source, components, output_type, group, FEATURE_GROUPS[group], trainer, number, specs[number], rng)
        for (source, components), output_type, group, trainer, number in itertools.islice(combinations, models)
    ]
    assert len(published) == models
    node_types_index = {str(n): {"attrs": spec, "members": [f"node-{n}"]} for n, spec in enumerate(specs)}
    LocalStore(root).publish("bench", pipeline_files(published, {"name": "bench"}, node_types_index))


def linear_model(
    source: str,
    components: Sequence[str],
    output_type: str,
    group: str,
    features: Sequence[str],
    trainer: str,
    node_type: int,
    spec: dict[str, Any],
    rng: random.Random,
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the metadata and the files of a made-up linear model, in the form that `kepler-model train` writes."""
    name = f"{trainer}_{node_type}"
    scales = {feature: rng.uniform(1e3, 1e9) for feature in features}
    measured = {c: {"mae": rng.uniform(1, 5), "mape": rng.uniform(2, 15)} for c in components}
    validated = {
        c: errors | {
            "mape_floor": 4.9, "idle_error": rng.uniform(0, 3), "r2": rng.uniform(0.8, 0.99), "rows": 296,
            "constant_mae": rng.uniform(10, 25), "line_mae": rng.uniform(3, 6),
        }
        for c, errors in measured.items()
    }  # fmt: skip
    metadata = {
        "model_class": "weights", "model_file": "model.json", "fe_files": [], "model_name": name, "source": source,
        "output_type": output_type, "feature_group": group, "trainer": trainer, "features": list(features),
        "components": list(components), "node_type": node_type, "machine_spec": spec,
        **{key: max(errors[key] for errors in measured.values()) for key in ("mae", "mape")},
        **{f"{c}_{key}": errors[key] for c, errors in measured.items() for key in ("mae", "mape")},
        "validation": {
            "scheme": "blocks", "folds": 5, "block_seconds": None, "gap_seconds": None, "last_fraction": 0.3,
            "measured_on": "nodes", "timestamps": 296, "fit_rows": 296, "components": validated,
        },
        "arguments": {},
        "lineage": {
            "data": f"{node_type:064x}", "pipeline": 64 * "0", "seed": 0, "schemas": ["kepler-0.7"],
            "isolator": "MinIdleIsolator", "extractor": "DefaultExtractor",
            "versions": {"kepler-core": "0.1.0", "numpy": "2.4.6", "scikit-learn": "1.9.1", "scipy": "1.17.1"},
        },
    }  # fmt: skip
    fitted = {c: ({feature: rng.uniform(1, 90) for feature in features}, rng.uniform(5, 50)) for c in components}
    weights = {
        c: {
            "All_Weights": {
                "Bias_Weight": bias,
                "Categorical_Variables": {},
                "Numerical_Variables": {f: {"scale": scales[f], "weight": w} for f, w in by_feature.items()},
            }
        }
        for c, (by_feature, bias) in fitted.items()
    }
    parts = {c: {"ceiling": 2000.0, "format": "weights", "file": f"{c}.json"} for c in components}
    layout = {"layout": 1, "features": list(features), "scale": list(scales.values()), "components": parts}
    content = {
        "metadata.json": metadata,
        "model.json": layout,
        "weight.json": {"model_name": name, "machine_spec": spec, **weights},
        **{f"{c}.json": {"type": "linear", "weights": w, "bias": bias} for c, (w, bias) in fitted.items()},
    }
    return metadata, {file: json.dumps(document, indent=1).encode() for file, document in content.items()}


def train(root: str, folder: Path) -> None:
    """Train the quickstart pipeline on a simulated recording, and publish it in the store `root`."""
    from kepler_core.simulate import Simulation, write

    recording = str(folder / "simulated.json")
    write(Simulation(containers=10, timestamps=200), recording)
    command = [sys.executable, "-m", "kepler_core", "train", "quickstart", "--input", recording, "--store", root]
    subprocess.run([*command, "--json"], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Publish a made-up pipeline. The command line states the store and the numbers of models and node types."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store")
    parser.add_argument("models", type=int)
    parser.add_argument("node_types", type=int)
    arguments = parser.parse_args()
    publish(arguments.store, arguments.models, arguments.node_types)


if __name__ == "__main__":
    main()
