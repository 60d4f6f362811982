"""A model store for tests of pages: models with everything that a page can show, and names that an attacker chose."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kepler_core.store.layout import pipeline_files
from kepler_core.store.local import LocalStore
from support.linear_models import MACHINE, SCALE, LinearModel
from support.small_pipelines import BPF, SmallModel, pipeline

SCRIPT = "<script>alert(1)</script>"
QUOTES = "\"'><img src=x onerror=alert(2)>"
REVERSED = "\u202egnp.exe"
LONG = "long" * 1000
"""A name of 4,000 characters. Kepler Core does not read stores with names of more than 4,096 characters."""
REPORT = f"<!doctype html><title>Report</title>{SCRIPT}<p>Errors by split".encode()
"""A report with a script, which must not run."""
HOSTILE = (SCRIPT, QUOTES, REVERSED)


def component_errors(mae: float) -> dict[str, Any]:
    return {"mae": mae, "bias": -0.5, "idle_bias": 0.25, "rows": 100, "mape": 4.0}


def honesty(mae: float = 2.0) -> dict[str, Any]:
    """Return a block `honesty` of metadata, with errors on two splits and the interval of one component."""
    split = {"mae": mae, "components": {"package": component_errors(mae)}, "parts": 5, "worst": 2 * mae}
    terms = {
        "lowest": 50.0, "highest": 200.0, "edges": [100.0], "quantiles": [3.0, 6.0], "session": 2.0,
        "machine_idle": 0.13, "machine_loaded": 0.07, "noise": 0.5,
    }  # fmt: skip
    return {
        "splits": {"blocks": split, "regimes": {**split, "mae": 1.5 * mae}, "recordings": None, "nodes": None},
        "hardest": "regimes",
        "seen": {
            "recordings": 1, "days": 1, "nodes": 1, "samples": 500,
            "features": {name: [10.0, SCALE / 100] for name in BPF},
        },
        "level": 0.9,
        "intervals": {"package": terms},
    }  # fmt: skip


def good_files() -> dict[str, bytes]:
    """Return the files of a pipeline that Kepler Core could have trained."""
    models = [LinearModel(honesty=honesty()), LinearModel("LinearRegressionTrainer", mae=3.0, honesty=honesty(3.0))]
    index = {"0": {"attrs": MACHINE, "members": ["node-a", "node-b"]}}
    return pipeline_files([model.stored() for model in models], {"name": "good"}, index)


def hostile_files() -> dict[str, bytes]:
    """Return the files of a pipeline whose names and texts were written by an attacker."""
    path_safe = [name.replace("/", "∕") for name in HOSTILE]
    models = [
        SmallModel(
            trainer=name,
            source=name,
            group=name,
            more={"lineage": {name: [name, LONG], "deep": {"x": {name: name}}}, "honesty": {name: name}},
            features=(name, LONG[:900]),
            weights=None,
        )
        for name in path_safe
    ]
    files = pipeline(*models, node_types={0: {"processor": SCRIPT, QUOTES: REVERSED}})
    index = {"0": {"attrs": {"processor": SCRIPT, QUOTES: REVERSED}, "members": [SCRIPT, QUOTES, LONG]}}
    return files | {"node_type_index.json": json.dumps(index).encode()}


def make_store(folder: Path) -> LocalStore:
    """Make a store with a good, a hostile and a broken pipeline, and with decisions of the online trainer."""
    store = LocalStore(folder)
    store.publish("good", good_files())
    store.publish("good", good_files() | {"report.html": REPORT})
    store.record_decision(
        "good",
        {"time": "2026-01-02T03:04:05", "trigger": "drift", "decision": "published", "version": 2, "reason": "1 fit"},
    )
    store.record_decision("good", {"time": SCRIPT, "trigger": [QUOTES], "decision": {"x": REVERSED}, "reason": LONG})
    for name, files in (
        ("hostile", hostile_files()),
        ("broken", {"metadata.json": b"{}", "acpi/AbsPower/BPFOnly/X_0.zip": b"no zip"}),
    ):
        for path, content in files.items():
            target = folder / name / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return store
