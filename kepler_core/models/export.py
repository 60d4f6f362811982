"""Export fitted regressors as the files of a power model, and check that the exported model predicts the same watts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import ModelFormat, Regressor
from kepler_core.errors import ModelError
from kepler_core.json_files import indented_json
from kepler_core.models.kepler_weights import (
    KEPLER_CURVES,
    NO_WEIGHTS_KEY,
    refusal,
    uninformative_features,
    without_idle_power,
    without_negligible,
)
from kepler_core.models.loading import format_name, load_model
from kepler_core.models.power_model import (
    FEATURE_LIMIT,
    LAYOUT_VERSION,
    MAX_COMPONENT_BYTES,
    METADATA_FILE,
    MODEL_FILE,
    PROPORTIONAL_FEATURES,
    WEIGHT_FILE,
    ComponentPart,
    ModelFile,
    ceiling_of,
    scaled,
)
from kepler_core.plugins import registry
from kepler_core.vocabulary import main_feature

TOLERANCE = 0.001
"""Largest allowed difference between the predictions of the exported and the fitted model on a row. It is a fraction of
the range of the measured power (maximum − minimum). Weights on features that were rare or constant in training are set
to 0 if this changes predictions by at most this difference (`without_negligible`)."""

LIMITS_KEY = "limits"
"""Key of the upper limits in `metadata.json` and `weight.json`: `features` maps each feature to its upper limit,
`power` maps each component to the upper limit of its power. Kepler ignores the key, and applies no limits."""

_DEFAULT_FORMATS = ("weights", "onnx")


@attrs.frozen(eq=False)
class FittedComponent:
    """The fit of one component: a regressor or a constant power in watts, and the measured power."""

    regressor: Regressor | None
    constant: float | None
    watts: FloatArray
    """Measured power of the component in watts, shape (rows,)."""
    gain: float = 1.0
    """Factor of the predictions."""
    weights_gain: float = 1.0
    """Factor of the weights for Kepler. It differs from `gain`, because Kepler does not limit the power to the
    ceiling."""
    zero_at_idle: bool = False
    """Whether the prediction for a row of zeros is subtracted from all predictions, before the gain is applied."""


def export(
    features: Sequence[str],
    scale: FloatArray,
    X: FloatArray,
    fitted: Mapping[str, FittedComponent],
    metadata: Mapping[str, Any],
    *,
    model_format: str | None = None,
) -> dict[str, bytes]:
    """Export a model and return its files by name.

    `X` holds the training rows in the features' own units. Raises `ModelError` if no model format supports
    a regressor, or if the predictions of the exported and the fitted model for `X` differ by more than
    `TOLERANCE`.
    """
    trainer = str(metadata.get("trainer", ""))
    files: dict[str, bytes] = {}
    parts: dict[str, ComponentPart] = {}
    weights: dict[str, Any] = {}
    X32 = scaled(X, scale)
    by_feature = dict(zip(features, map(float, scale), strict=True))
    uninformative = uninformative_features(features, scale, X)
    formats = [] if all(f.constant is not None for f in fitted.values()) else _candidates(model_format)
    for component, entry in fitted.items():
        highest = float(entry.watts.max(initial=0.0))
        ceiling = ceiling_of(highest)
        if entry.regressor is None:
            parts[component] = ComponentPart(ceiling, constant=entry.constant)
            continue
        name, chosen = _format_for(entry.regressor, formats)
        file = component + chosen.suffix
        files[file] = chosen.dump(entry.regressor, features, X32)
        if len(files[file]) > MAX_COMPONENT_BYTES:
            raise ModelError(
                f"{component}: the exported model has {len(files[file])} bytes, more than {MAX_COMPONENT_BYTES}; "
                "train a smaller model, e.g. with fewer or shallower trees"
            )
        proportional = _proportional_to(component, name, features)
        ceiling = ceiling_of(highest, proportional)
        shift = -entry.gain * _idle_power(chosen, files[file], features) if entry.zero_at_idle else 0.0
        parts[component] = ComponentPart(
            ceiling, format=name, file=file, proportional_to=proportional, gain=entry.gain, shift=shift
        )
        if (kepler_weights := chosen.weights(files[file], features, by_feature)) is not None:
            negligible = TOLERANCE * float(np.ptp(entry.watts))
            weights[component] = without_negligible(kepler_weights, uninformative, negligible)
            if entry.zero_at_idle:
                weights[component] = without_idle_power(weights[component], trainer, entry.weights_gain)
    for component, part in parts.items():
        if part.constant is not None:
            weights[component] = _constant_weights(part.constant, features, by_feature, trainer)
    lowest = X.min(axis=0, initial=0.0) if metadata.get("output_type") == "DynPower" else X.min(axis=0)
    layout = ModelFile(LAYOUT_VERSION, list(features), list(map(float, scale)), parts, list(map(float, lowest)))
    files[MODEL_FILE] = indented_json(layout)
    full = {"model_class": _model_class(parts), "model_file": MODEL_FILE, "fe_files": [], **metadata}
    full[LIMITS_KEY] = {
        "features": {feature: FEATURE_LIMIT * value for feature, value in by_feature.items()},
        "power": {component: part.ceiling for component, part in parts.items()},
    }
    if len(weights) == len(parts):
        content = _weight_file(weights, full)
        if (reason := refusal(content, trainer, features, uninformative)) is None:
            files[WEIGHT_FILE] = content
        else:
            full[NO_WEIGHTS_KEY] = reason
    files[METADATA_FILE] = indented_json(full)
    _check_export(files, X, X32, fitted, parts)
    return files


def proportional_feature(
    component: str, regressor: Regressor, features: Sequence[str], model_format: str | None
) -> str | None:
    """Return the feature to which the power of the exported model will be proportional; None if there is none.

    The result is the value of `ComponentPart.proportional_to`. `model_format` is `Trainer.model_format`. Raises
    `ModelError` if no model format supports the regressor.
    """
    if PROPORTIONAL_FEATURES.get(component) not in features:
        return None  # return before the search for the model format: the search may import a library
    return _proportional_to(component, _format_for(regressor, _candidates(model_format))[0], features)


def _proportional_to(component: str, model_format: str, features: Sequence[str]) -> str | None:
    feature = PROPORTIONAL_FEATURES.get(component)
    return feature if model_format == "weights" and feature in features else None


def _weight_file(weights: Mapping[str, Any], metadata: Mapping[str, Any]) -> bytes:
    """Return the content of `weight.json`."""
    head = {
        "model_name": metadata.get("model_name"),
        "machine_spec": metadata.get("machine_spec", {}),
        LIMITS_KEY: metadata[LIMITS_KEY],
    }
    return indented_json({**head, **weights})


def _model_class(parts: Mapping[str, ComponentPart]) -> str:
    formats = sorted({part.format for part in parts.values() if part.format is not None})
    return "+".join(formats) or "constant"


def _candidates(model_format: str | None) -> list[tuple[str, ModelFormat]]:
    names = [model_format] if model_format else list(_DEFAULT_FORMATS)
    return [(_stored_name(name), registry.model_formats.create(format_name(name))) for name in names]


def _stored_name(name: str) -> str:
    return name.removeprefix("kepler-core:")


def _format_for(regressor: Regressor, formats: list[tuple[str, ModelFormat]]) -> tuple[str, ModelFormat]:
    for name, model_format in formats:
        if model_format.supports(regressor):
            return name, model_format
    tried = " or ".join(name for name, _ in formats)
    raise ModelError(f"{type(regressor).__name__} cannot be written in the model format {tried}")


def _constant_weights(
    watts: float, features: Sequence[str], scale: Mapping[str, float], trainer: str
) -> dict[str, Any]:
    """Return weights with which the formula that Kepler picks for `trainer` always gives `watts`."""
    if trainer in KEPLER_CURVES:
        return {
            "All_Weights": {
                "Categorical_Variables": {},
                "Numerical_Variables": {main_feature(features, "package"): {"scale": 1.0}},
                "CurveFit_Weights": [0.0] * (KEPLER_CURVES[trainer] - 1) + [watts],
            }
        }
    return {
        "All_Weights": {
            "Bias_Weight": watts,
            "Categorical_Variables": {},
            "Numerical_Variables": {f: {"scale": scale[f], "weight": 0.0} for f in features},
        }
    }


def _idle_power(model_format: ModelFormat, content: bytes, features: Sequence[str]) -> float:
    """Return the watts ≥ 0 that a component's file predicts for a row of zeros."""
    idle = model_format.load(content, features).predict(np.zeros((1, len(features)), dtype=np.float32))
    return max(float(np.ravel(idle)[0]), 0.0)


def _check_export(
    files: Mapping[str, bytes],
    X: FloatArray,
    X32: SingleArray,
    fitted: Mapping[str, FittedComponent],
    parts: Mapping[str, ComponentPart],
) -> None:
    """Raise `ModelError` if the exported model and the fitted regressors predict watts that differ too much."""
    watts = load_model(files).predict(X)
    for component, entry in fitted.items():
        if entry.regressor is None:
            continue
        part = parts[component]
        expected = np.maximum(entry.regressor.predict(X32.astype(np.float64)), 0.0)
        expected = np.minimum(np.maximum(expected * part.gain + part.shift, 0.0), part.ceiling)
        spread = float(np.ptp(entry.watts))
        difference = float(np.max(np.abs(watts[component] - expected), initial=0.0))
        if not difference <= TOLERANCE * spread:
            raise ModelError(
                f"{component}: the stored model's prediction differs from the fitted one by {difference:.3g} W, "
                f"more than {TOLERANCE:.1%} of the power range ({spread:.3g} W)"
            )
