"""Power models made from linear weights in Kepler's form (see `kepler_weights`), for Kepler Core to evaluate.

The public kepler-model-db stores its models as pickles, which Kepler Core never loads. For its linear models, it also
has the weights as JSON. From these weights, this module makes the files of a model of Kepler Core.

Kepler Core also accepts weights that can give a negative power, and replaces this power by 0 W. Kepler does not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import attrs
import msgspec

from kepler_core.errors import ModelError
from kepler_core.models.kepler_weights import AllWeights, Variable, decode_weights
from kepler_core.models.loading import load_model
from kepler_core.models.power_model import (
    LAYOUT_VERSION,
    METADATA_FILE,
    MODEL_FILE,
    PROPORTIONAL_FEATURES,
    ComponentPart,
    ModelFile,
    PowerModel,
    ceiling_of,
)
from kepler_core.vocabulary import RARE_MAXIMUM, WORKLOAD_FEATURES

MAX_FEATURES = 1000
"""Maximum number of features in a file with linear weights."""
MAX_FEATURE_CHARACTERS = 300


@attrs.frozen(eq=False)
class LinearWeights:
    """Linear weights that Kepler Core can evaluate."""

    components: Mapping[str, AllWeights]
    encoded: bytes
    """The weights of all components as members of a JSON object, without the surrounding braces."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features of all components, in the order of the weight file."""
        return tuple(dict.fromkeys(f for weights in self.components.values() for f in weights.Numerical_Variables))


def read_linear_weights(content: bytes, features: Collection[str] | None = None) -> LinearWeights:
    """Read linear weights from a weight file. `features` are the model's features; None allows all features.

    Raises `ModelError` in these cases: the content is not a weight file; the weights are not linear; a weight is not
    finite; a weight is for a feature that is not in `features`; there is no feature, or there are more than
    `MAX_FEATURES`; a feature's name is too long; the weights give 0 W for all values of the features.
    """
    components, encoded = decode_weights(content)
    for component, weights in components.items():
        _check_linear(component, weights)
    linear = LinearWeights(components, encoded)
    if not 0 < len(linear.features) <= MAX_FEATURES:
        raise ModelError(f"weights of {len(linear.features)} features; 1 to {MAX_FEATURES} are supported")
    if any(len(name) > MAX_FEATURE_CHARACTERS for name in linear.features):
        raise ModelError(f"a feature's name has more than {MAX_FEATURE_CHARACTERS} characters")
    if features is not None and (unknown := [name for name in linear.features if name not in features]):
        raise ModelError(f"a weight for {unknown[0][:60]!r}, which is not a feature of the model")
    if all(_full_load(weights) <= 0 for weights in components.values()):
        raise ModelError("weights that give 0 W for all values of the features")
    return linear


def load_linear_weights(encoded: bytes, metadata: Mapping[str, Any], where: str = "model") -> PowerModel:
    """Return the power model that linear weights describe.

    `encoded` is `LinearWeights.encoded`, `metadata` the metadata that the power model gets, and `where` names the
    model in errors. Watts below 0 become 0 W. Raises `ModelError` if the weights cannot be evaluated.
    """
    try:
        linear = read_linear_weights(b"{%s}" % encoded)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    scales = _scales(linear)
    files: dict[str, bytes] = {METADATA_FILE: msgspec.json.encode(dict(metadata))}
    parts: dict[str, ComponentPart] = {}
    for component, weights in linear.components.items():
        used = _used_variables(weights)
        main = PROPORTIONAL_FEATURES.get(component)
        proportional = main if main in used and used[main].weight else None
        ceiling = ceiling_of(_full_load(weights), proportional)
        # Each component may have its own scale of a feature. A model has only one scale per feature, so convert the
        # weights.
        scaled = {f: v.weight * scales[f] / v.scale for f, v in used.items() if v.weight}
        bias = _bias(weights)
        if not scaled:
            parts[component] = ComponentPart(ceiling, constant=max(bias, 0.0))
            continue
        name = f"{component}.json"
        parts[component] = ComponentPart(ceiling, format="weights", file=name, proportional_to=proportional)
        files[name] = msgspec.json.encode({"type": "linear", "weights": scaled, "bias": bias})
    layout = ModelFile(LAYOUT_VERSION, list(scales), list(scales.values()), parts, [0.0] * len(scales))
    return load_model({**files, MODEL_FILE: msgspec.json.encode(layout)}, where, resident=True)


def unmeasured_features(encoded: bytes) -> tuple[str, ...]:
    """Return the counters whose weights are not used, because the counters were always 0 in training."""
    components = decode_weights(b"{%s}" % encoded)[0].values()
    return tuple(
        dict.fromkeys(
            feature
            for weights in components
            for feature, variable in weights.Numerical_Variables.items()
            if variable.weight and variable.scale > 0 and _is_unmeasured(feature, variable)
        )
    )


def _check_linear(component: str, weights: AllWeights) -> None:
    if weights.CurveFit_Weights is not msgspec.UNSET:
        raise ModelError(f"{component}: the weights of a curve, not linear weights")
    if weights.Bias_Weight is msgspec.UNSET:
        raise ModelError(f"{component}: no Bias_Weight")
    if weights.Categorical_Variables:
        raise ModelError(f"{component}: categorical variables, which are not supported")
    for feature, variable in weights.Numerical_Variables.items():
        if variable.weight is None:
            raise ModelError(f"{component}: no weight for {feature[:60]}")
        if not (math.isfinite(variable.scale) and variable.scale >= 0):
            raise ModelError(f"{component}: the scale of {feature[:60]} is not a number of at least 0")


def _bias(weights: AllWeights) -> float:
    return 0.0 if weights.Bias_Weight is msgspec.UNSET else weights.Bias_Weight


def _full_load(weights: AllWeights) -> float:
    """Return the highest power, in watts, while each feature is between 0 and its scale."""
    return _bias(weights) + sum(max(v.weight or 0.0, 0.0) for v in _used_variables(weights).values())


def _used_variables(weights: AllWeights) -> dict[str, Variable]:
    """Return the features that count in the linear formula.

    Features of scale 0 are left out, and also counters that were nearly always 0 in training.
    """
    return {
        feature: variable
        for feature, variable in weights.Numerical_Variables.items()
        if variable.scale > 0 and not _is_unmeasured(feature, variable)
    }


def _is_unmeasured(feature: str, variable: Variable) -> bool:
    # kepler-model-server divides a counter that was always 0 in training by the scale 1. The weight of such a counter
    # is arbitrary, and a real rate of the counter would be thousands of times its scale.
    return feature in WORKLOAD_FEATURES and variable.scale <= RARE_MAXIMUM


def _scales(linear: LinearWeights) -> dict[str, float]:
    """Return the scale of each feature: the largest of all components; 1 if no component uses the feature."""
    scales = dict.fromkeys(linear.features, 0.0)
    for weights in linear.components.values():
        for feature, variable in _used_variables(weights).items():
            scales[feature] = max(scales[feature], variable.scale)
    return {feature: scale or 1.0 for feature, scale in scales.items()}
