"""Tests of the bounds that built-in plugins declare for their arguments.

If a value is outside its bounds, `pipelines check` reports the YAML key.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.command import kepler

from kepler_core.contracts import FitTask
from kepler_core.errors import PipelineError, PluginError
from kepler_core.pipeline.load import pipeline_from
from kepler_core.plugins import registry
from kepler_core.plugins.arguments import arguments_of

IMPOSSIBLE = [
    ("KNeighborsRegressorTrainer", "n_neighbors", -3),
    ("KNeighborsRegressorTrainer", "n_neighbors", 0),
    ("SVRRegressorTrainer", "C", 0.0),
    ("SVRRegressorTrainer", "C", math.inf),
    ("SVRRegressorTrainer", "C", math.nan),
    ("SVRRegressorTrainer", "epsilon", -0.1),
    ("SVRRegressorTrainer", "kernel", "poly9"),
    ("PolynomialRegressionTrainer", "degree", 0),
    ("PolynomialRegressionTrainer", "alpha", -1.0),
    ("GradientBoostingRegressorTrainer", "n_estimators", 0),
    ("GradientBoostingRegressorTrainer", "learning_rate", -0.1),
    ("GradientBoostingRegressorTrainer", "max_depth", -1),
    ("GradientBoostingRegressorTrainer", "min_samples_leaf", 0),
    ("GradientBoostingRegressorTrainer", "subsample", 1.5),
    ("HistGradientBoostingRegressorTrainer", "max_iter", 0),
    ("HistGradientBoostingRegressorTrainer", "learning_rate", 0.0),
    ("HistGradientBoostingRegressorTrainer", "max_leaf_nodes", 1),
    ("HistGradientBoostingRegressorTrainer", "max_leaf_nodes", 65),
    ("HistGradientBoostingRegressorTrainer", "min_samples_leaf", 0),
    ("HistGradientBoostingRegressorTrainer", "l2_regularization", -1.0),
    ("HistGradientBoostingRegressorTrainer", "rising", "cpu_cycles"),
    ("BlendTrainer", "boosted_trees", 0),
    ("BlendTrainer", "boosted_trees", 301),
    ("BlendTrainer", "extra_trees", 0),
    ("BlendTrainer", "learning_rate", 0.0),
    ("BlendTrainer", "min_samples_leaf", 0),
    ("XgboostFitTrainer", "n_estimators", -1),
    ("XgboostFitTrainer", "learning_rate", 0.0),
    ("XgboostFitTrainer", "max_depth", -1),
    ("XgboostFitTrainer", "min_child_weight", -1.0),
    ("XgboostFitTrainer", "subsample", 0.0),
]

SCIKIT_LEARN = [name for name in registry.trainers.names() if name != "XgboostFitTrainer"]
"""All trainers except the trainer of XGBoost: XGBoost does not declare the bounds of its parameters."""


@pytest.mark.parametrize(("name", "argument", "value"), IMPOSSIBLE)
def test_a_value_that_cannot_be_is_reported_with_the_path_of_its_key(name, argument, value):
    document = {"name": "mine", "dyn_trainers": ["LinearRegressionTrainer", {"name": name, "args": {argument: value}}]}
    with pytest.raises(PipelineError) as caught:
        pipeline_from(document, "mine.yaml")
    assert caught.value.path == ("dyn_trainers", 1, "args", argument)
    assert str(caught.value).startswith(f"mine.yaml: dyn_trainers[1].args.{argument}: kepler-core:{name}: ")


@pytest.mark.parametrize("trainer", SCIKIT_LEARN)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_scikit_learn_accepts_what_is_accepted(trainer, data):
    values = {
        "int": st.integers(-3, 8),
        "float": st.floats(-2, 8),
        "str": st.sampled_from(["cpu_cycles", "unheard_of"]),
        "list[str] | None": st.none() | st.lists(st.sampled_from(["cpu_cycles", "unheard_of"])),
    }
    arguments = {
        argument.name: data.draw(values[argument.type]) for argument in arguments_of(registry.trainers.get(trainer))
    }
    try:
        created = registry.trainers.create(trainer, arguments)
    except PluginError:
        return
    X = np.random.default_rng(0).uniform(0, 1, (30, 2))
    for output_type in ("AbsPower", "DynPower"):
        task = FitTask("package", ("cpu_cycles", "cpu_instructions"), "cpu_instructions", output_type, 0)
        # If an argument is out of scikit-learn's bounds, `fit` raises InvalidParameterError.
        created.regressor(task).fit(X, 40 + X.sum(axis=1))


def test_the_command_names_file_key_and_bound(tmp_path):
    file = tmp_path / "mine.yaml"
    trainer = {"name": "KNeighborsRegressorTrainer", "args": {"n_neighbors": -3}}
    file.write_text(yaml.safe_dump({"abs_trainers": [trainer]}))
    result = kepler("pipelines", "check", str(file))
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "abs_trainers[0].args.n_neighbors" in result.stderr
    assert "must be at least 1, not -3" in result.stderr
