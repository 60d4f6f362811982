"""Fitted regressors to the files of a power model, compared with what was fitted."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import ModelFormat, Regressor
from kepler_core.errors import ModelError
from kepler_core.models.kepler_weights import KEPLER_CURVES, read_weights
from kepler_core.models.power_model import (
    LAYOUT_VERSION,
    METADATA_FILE,
    MODEL_FILE,
    WEIGHT_FILE,
    ComponentPart,
    ModelFile,
    format_name,
    load_model,
    scaled,
)
from kepler_core.plugins import registry
from kepler_core.vocabulary import main_feature

log = logging.getLogger(__name__)

TOLERANCE = 0.001
"""A stored model may differ from the fitted one by this part of the power range, on any row."""

CEILING_FACTOR = 10.0

_PREFERRED = ("weights", "onnx")


@attrs.frozen(eq=False)
class FittedComponent:
    """A component's fitted regressor, or its constant power."""

    regressor: Regressor | None
    constant: float | None
    watts: FloatArray
    """What was measured, shape (rows,)."""


def export(
    features: Sequence[str],
    scale: FloatArray,
    X: FloatArray,
    fitted: Mapping[str, FittedComponent],
    metadata: Mapping[str, Any],
    *,
    model_format: str | None = None,
) -> dict[str, bytes]:
    """The files of a model by name; `ModelError` if it cannot be written or does not agree.

    `X` are the training rows in the features' own units.
    """
    files: dict[str, bytes] = {}
    parts: dict[str, ComponentPart] = {}
    weights: dict[str, Any] = {}
    X32 = scaled(X, scale)
    by_feature = dict(zip(features, map(float, scale), strict=True))
    formats = [] if all(f.constant is not None for f in fitted.values()) else _candidates(model_format)
    used: ModelFormat | None = None
    for component, found in fitted.items():
        ceiling = CEILING_FACTOR * max(float(found.watts.max(initial=0.0)), 1.0)
        if found.regressor is None:
            parts[component] = ComponentPart(ceiling, constant=found.constant)
            continue
        name, used = _format_for(found.regressor, formats)
        file = component + used.suffix
        files[file] = used.dump(found.regressor, features, X32)
        parts[component] = ComponentPart(ceiling, format=name, file=file)
        if (kepler_weights := used.weights(files[file], features, by_feature)) is not None:
            weights[component] = kepler_weights
    trainer = str(metadata.get("trainer", ""))
    for component, part in parts.items():
        if part.constant is not None:
            weights[component] = _constant_weights(part.constant, features, by_feature, trainer)
    layout = ModelFile(LAYOUT_VERSION, list(features), [float(s) for s in scale], parts)
    files[MODEL_FILE] = _pretty(layout)
    full = {"model_class": _model_class(parts), "model_file": MODEL_FILE, "fe_files": [], **metadata}
    files[METADATA_FILE] = _pretty(full)
    if len(weights) == len(parts):
        head = {"model_name": full.get("model_name"), "machine_spec": full.get("machine_spec", {})}
        content = _pretty({**head, **weights})
        try:
            read_weights(content, trainer, features)
        except ModelError as error:
            log.debug("%s has no weights for Kepler: %s", full.get("model_name"), error)
        else:
            files[WEIGHT_FILE] = content
    _compare(files, X, X32, fitted)
    return files


def _model_class(parts: Mapping[str, ComponentPart]) -> str:
    formats = sorted({part.format for part in parts.values() if part.format is not None})
    return "+".join(formats) or "constant"


def _pretty(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def _candidates(model_format: str | None) -> list[tuple[str, ModelFormat]]:
    names = [model_format] if model_format else list(_PREFERRED)
    return [(_stored_name(name), registry.model_formats.create(format_name(name))) for name in names]


def _stored_name(name: str) -> str:
    return name.removeprefix("kepler-core:")


def _format_for(regressor: Regressor, formats: list[tuple[str, ModelFormat]]) -> tuple[str, ModelFormat]:
    for name, form in formats:
        if form.supports(regressor):
            return name, form
    tried = " or ".join(name for name, _ in formats)
    raise ModelError(f"{type(regressor).__name__} cannot be written as {tried}")


def _constant_weights(
    watts: float, features: Sequence[str], scale: Mapping[str, float], trainer: str
) -> dict[str, Any]:
    """A constant in the shape of the formula that Kepler picks by the trainer's name."""
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


def _compare(
    files: Mapping[str, bytes], X: FloatArray, X32: SingleArray, fitted: Mapping[str, FittedComponent]
) -> None:
    watts = load_model(files).predict(X)
    for component, found in fitted.items():
        if found.regressor is None:
            continue
        expected = np.maximum(found.regressor.predict(X32.astype(np.float64)), 0.0)
        spread = float(np.ptp(found.watts))
        difference = float(np.max(np.abs(watts[component] - expected), initial=0.0))
        if not difference <= TOLERANCE * spread:
            raise ModelError(
                f"{component}: the stored model differs from the fitted one by {difference:.3g} W, more than "
                f"{TOLERANCE:.1%} of the power range ({spread:.3g} W)"
            )
