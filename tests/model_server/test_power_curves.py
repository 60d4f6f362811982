"""Tests of the power curves that the model server computes for its pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.linear_models import MACHINE, LinearModel
from support.page_store import honesty
from support.process import wait_for
from support.small_pipelines import SmallModel, linear, pipeline

from kepler_core.selection.reading import read_pipeline_models
from kepler_core.store.layout import pipeline_files, zip_bytes
from kepler_core.store.local import LocalStore
from kepler_core.store.models import StoredModel
from kepler_servers.browser.curve import Curve
from kepler_servers.browser.power_curves import MAX_WAITING, PowerCurves

PATIENCE = 90.0
"""Time to wait for a power curve, in seconds. The process that computes the curve starts slowly on a busy machine."""


def stored(folder: Path, files: dict[str, bytes]) -> list[StoredModel]:
    """Publish a pipeline with the files `files`, and return its models as the model server reads them."""
    store = LocalStore(folder)
    store.publish("p", files)
    return read_pipeline_models(store.snapshot("p"), serving=True)[0]


def computed(curves: PowerCurves, model: StoredModel) -> Curve:
    wait_for(lambda: curves.curve(model) is not None, "the curve was not computed", PATIENCE)
    curve = curves.curve(model)
    assert curve is not None
    return curve


def portable_files(*models: LinearModel) -> dict[str, bytes]:
    index = {"0": {"attrs": MACHINE, "members": ["node"]}}
    return pipeline_files([model.stored() for model in models], {"name": "p"}, index)


def test_a_model_is_evaluated_in_another_process_and_its_curve_is_kept(tmp_path: Path) -> None:
    (model,) = stored(tmp_path, portable_files(LinearModel(honesty=honesty())))
    curves = PowerCurves()
    assert curves.curve(model) is None
    curve = computed(curves, model)
    assert curve.reason == ""
    assert curve.components["package"].watts[0] == pytest.approx(50.11, abs=0.001)
    assert curves.curve(model) is curve


def test_linear_weights_of_the_public_database_are_drawn(tmp_path: Path) -> None:
    weights = {"package": linear(30.0, {"bpf_cpu_time_ms": 2.5})}
    (model,) = stored(tmp_path, pipeline(SmallModel(weights=weights)))
    assert not model.portable
    curve = computed(PowerCurves(), model)
    assert curve.reason == ""
    assert curve.components["package"].watts[0] == pytest.approx(30.0)
    assert not curve.trained_range


def test_a_model_with_pickles_only_has_a_reason_in_place_of_a_curve(tmp_path: Path) -> None:
    (model,) = stored(tmp_path, pipeline(SmallModel("XgboostFitTrainer", weights=None)))
    curve = PowerCurves().curve(model)
    assert curve is not None
    assert curve.reason == "only pickles, no weights"


def test_a_model_that_cannot_be_evaluated_has_a_reason(tmp_path: Path) -> None:
    files = portable_files(LinearModel())
    metadata, own = LinearModel().stored()
    own["package.json"] = b'{"type": "linear", "weights": {}, "bias": 1e400}'
    base = f"rapl-sysfs/AbsPower/BPFOnly/{metadata['model_name']}"
    (model,) = stored(tmp_path, files | {f"{base}.zip": zip_bytes(own), f"{base}/package.json": own["package.json"]})
    curves = PowerCurves()
    curve = computed(curves, model)
    assert "package" in curve.reason or "damaged" in curve.reason or "the model" in curve.reason
    assert "\n" not in curve.reason
    assert curves.curve(model) is curve


def test_only_few_curves_wait(tmp_path: Path) -> None:
    trainers = [f"Trainer{number}" for number in range(MAX_WAITING + 1)]
    models = stored(tmp_path, portable_files(*(LinearModel(trainer) for trainer in trainers)))
    curves = PowerCurves()
    # The requests end before the process that computes curves has started, so no curve is ready.
    answers = [curves.curve(model) for model in models]
    assert answers[:MAX_WAITING] == [None] * MAX_WAITING
    refused = answers[MAX_WAITING]
    assert refused is not None
    assert refused.reason.startswith("many other curves")
