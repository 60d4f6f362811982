"""Functions that train models with `kepler-model train`, and a function that starts a process of `kepler-model`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.command import kepler

QUICK_PIPELINE = """
abs_trainers: [LinearRegressionTrainer, SGDRegressorTrainer]
dyn_trainers: [SGDRegressorTrainer]
"""


def kepler_process(*arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `kepler-model` in a new process, and return its output and its exit code."""
    command = [sys.executable, "-m", "kepler_core", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, **settings)


def train(*arguments: str | Path) -> dict[str, Any]:
    """Run `kepler-model train` and return its report. Fail if the training does not succeed."""
    # Use one job, because worker processes take longer to start than a small pipeline takes to fit.
    jobs = () if {"--jobs", "--backend"} & set(arguments) else ("--jobs", "1")
    done = kepler("train", *arguments, *jobs, "--json")
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def only_model(report: dict[str, Any], **keys: str) -> dict[str, Any]:
    """Return the model in a report that has the values `keys`. Fail unless exactly one model has these values."""
    models = [model for model in report["models"] if all(model[key] == value for key, value in keys.items())]
    assert len(models) == 1, f"{len(models)} models of {keys}"
    return dict(models[0])


def only_metrics(document: dict[str, Any], word: str) -> dict[str, Any]:
    """Return the metrics of a recording whose names contain `word`."""
    return {name: series for name, series in document.items() if word in name}
