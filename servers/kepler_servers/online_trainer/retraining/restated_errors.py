"""Increase the validated errors in a model's metadata to the model's errors on all stored samples.

A model that was validated on little data (an idle machine, one workload) has a low validated error. Model
selection would prefer it to a model that was validated on many workloads. Therefore, if a model's error on
all stored samples is higher than its validated error, the published metadata state the higher error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.next_version import read_files
from kepler_core.pipeline.validation import score
from kepler_core.store.models import StoredModel
from kepler_servers.online_trainer.retraining.candidates import Candidate
from kepler_servers.online_trainer.retraining.evaluation import Evaluation, Evaluator

Model = tuple[Mapping[str, Any], Mapping[str, bytes]]
"""Metadata of a model, and relative path -> content of its files."""


def restate_models(
    evaluator: Evaluator, served: Mapping[str, StoredModel], winners: Mapping[str, Candidate]
) -> dict[str, Model]:
    """Increase the stated errors that are too low in the models of the next version.

    Return the changed models by path.
    """
    restated: dict[str, Model] = {}
    for path, entry in served.items():
        if path not in winners and entry.portable:
            evaluation = evaluator.evaluate(entry, on_all=True)
            model = None if evaluation is None else restate(entry.metadata, read_files(entry), evaluation)
            if model is not None:
                restated[path] = model
    for path, winner in winners.items():
        # the stated errors of a retrained winner are right, because it was just validated on the stored samples
        if winner.kind == "recalibrated":
            evaluation = evaluator.evaluate(winner, on_all=True)
            model = None if evaluation is None else restate(winner.metadata, winner.files, evaluation)
            if model is not None:
                restated[path] = model
    return restated


def restate(metadata: Mapping[str, Any], files: Mapping[str, bytes], evaluation: Evaluation) -> Model | None:
    """Return the model with higher stated errors: the evaluation's error replaces each stated error that is lower.

    Returns None if no stated error is lower than the evaluation's error.
    """
    restated = dict(metadata)
    components = dict(metadata.get("validation", {}).get("components", {}))
    higher = []
    for component, predicted in evaluation.predicted.items():
        scores = score(predicted, evaluation.measured[component], evaluation.load)
        stated = metadata.get(f"{component}_mae")
        if isinstance(stated, int | float) and scores.mae <= stated:
            continue
        values = {name: _rounded(value) for name, value in attrs.asdict(scores).items()}
        components[component] = {**components.get(component, {}), **values}
        restated[f"{component}_mae"], restated[f"{component}_mape"] = values["mae"], values["mape"]
        higher.append(component)
    if not higher:
        return None
    maes = [restated[f"{c}_mae"] for c in evaluation.predicted]
    mapes = [mape for c in evaluation.predicted if (mape := restated.get(f"{c}_mape")) is not None]
    if isinstance(metadata.get("mae"), int | float):
        maes.append(metadata["mae"])
    restated["mae"] = max(maes)
    restated["mape"] = max(mapes) if mapes else None
    restated["validation"] = {**metadata.get("validation", {}), "components": components}
    restated["restated"] = {"components": higher, "instants": len(evaluation.samples)}
    content = msgspec.json.format(msgspec.json.encode(restated), indent=1) + b"\n"
    return restated, {**files, METADATA_FILE: content}


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
