"""Test the comparison of models by their errors."""

from __future__ import annotations

from typing import Any

import pytest
from support.selection import request_for
from support.small_pipelines import SmallModel, pipeline
from support.small_pipelines import catalogue as make_catalogue

from kepler_core.selection import Catalogue


def test_errors_on_the_same_data() -> None:
    catalogue = make_catalogue(
        SmallModel("A", mae=3, data="x", constant_mae=10),
        SmallModel("B", mae=2, data="x", constant_mae=10),
        SmallModel("C", mae=2.5, data="x", constant_mae=100),
        SmallModel("D", mae=float("1e9"), data="x", constant_mae=1),
    )
    explanation = catalogue.select(request_for()).explain()
    assert explanation["trainer"] == "B"
    assert explanation["error"] == {"mae": 2, "compared_by": "mae on the same data"}
    assert explanation["runner_up"] == {"model": "made/rapl-sysfs/AbsPower/BPFOnly/C_0", "mae": 2.5}


def catalogue_of_unlike_data(**constants: float | None) -> Catalogue:
    """Return a catalogue with a model of a recording with nearly constant power, and a model of a varied recording.

    The second model has the higher mae, but the lower ratio of mae to `constant_mae` (error of the mean as prediction).
    """
    models = {
        "easy": SmallModel(mae=2, data="easy", constant_mae=constants.get("easy", 2.5)),
        "hard": SmallModel(mae=5, data="hard", constant_mae=constants.get("hard", 100)),
    }
    return make_catalogue(**{name: pipeline(model) for name, model in models.items()})


def test_errors_on_unlike_data_are_compared_relatively() -> None:
    explanation = catalogue_of_unlike_data().select(request_for()).explain()
    assert explanation["pipeline"] == "hard"
    assert explanation["error"]["mae"] == 5
    assert "divided by the mae of a model that always predicts the median" in explanation["error"]["compared_by"]
    assert explanation["runner_up"]["mae"] == 2


def test_errors_on_unlike_data_without_a_constant_mae() -> None:
    explanation = catalogue_of_unlike_data(easy=None).select(request_for()).explain()
    assert explanation["pipeline"] == "easy"
    assert "not known" in explanation["error"]["compared_by"]


def test_only_the_best_model_of_each_data_set_is_compared() -> None:
    """A model with the lowest relative error is not selected if another model of its data set has a lower error."""
    catalogue = make_catalogue(
        a=pipeline(
            SmallModel("A", mae=4, data="a", constant_mae=8), SmallModel("B", mae=5, data="a", constant_mae=500)
        ),
        b=pipeline(SmallModel("C", mae=6, data="b", constant_mae=20)),
    )
    assert catalogue.select(request_for()).model.trainer == "C"


def test_another_error_key() -> None:
    models = [SmallModel("A", mae=1, more={"mape": 50}), SmallModel("B", mae=2, more={"mape": 5})]
    assert make_catalogue(*models, error_key="mape").select(request_for()).model.trainer == "B"
    assert make_catalogue(*models).select(request_for()).model.trainer == "A"


def test_a_model_without_the_error_comes_last() -> None:
    catalogue = make_catalogue(SmallModel("A", mae=-1), SmallModel("B", mae=99))
    assert catalogue.select(request_for()).model.trainer == "B"
    assert catalogue.select(request_for(trainer="A")).explain()["error"]["mae"] is None


def recalibrated(trainer: str, mae: float, **stated: Any) -> SmallModel:
    """Return a recalibrated model. Its error was measured on time blocks of a recording with measured power."""
    blocks = {"mae": mae, "components": {}, "parts": 5, "worst": None, **stated}
    return SmallModel(trainer, mae=mae, data="metered", more={"honesty": {"splits": {"blocks": blocks}}})


@pytest.mark.parametrize(
    ("lowest", "other", "selected"),
    [
        # the difference of 1 W is within the standard error of the difference, √(0.8² + 0.8²) = 1.13
        ({"standard_error": 0.8, "earlier": 30.0}, {"standard_error": 0.8, "earlier": 10.0}, "Other"),
        ({"standard_error": 0.8, "earlier": 10.0}, {"standard_error": 0.8, "earlier": 30.0}, "Lowest"),
        ({"standard_error": 0.5, "earlier": 30.0}, {"standard_error": 0.5, "earlier": 10.0}, "Lowest"),
        ({"standard_error": 0.8}, {"standard_error": 0.8, "earlier": 10.0}, "Other"),
        ({"standard_error": 0.8, "earlier": 30.0}, {"standard_error": 0.8}, "Lowest"),
        ({}, {}, "Lowest"),
    ],
)
def test_uncertain_errors_of_recalibrated_models(
    lowest: dict[str, float], other: dict[str, float], selected: str
) -> None:
    """If errors differ by less than the standard error, the lower error before the recalibration decides."""
    catalogue = make_catalogue(recalibrated("Lowest", 5.0, **lowest), recalibrated("Other", 6.0, **other))
    explanation = catalogue.select(request_for()).explain()
    assert explanation["trainer"] == selected
    assert ("before the recalibration" in explanation["error"]["compared_by"]) == (selected == "Other")
