"""The format of weights that Kepler evaluates itself, and functions that check whether Kepler can do this safely.

Kepler picks the formula by the trainer's name: the first part of `model_name`, which is `<trainer>_<node type>`. Kepler
fails if the weights do not have the form that the formula needs:

    linear (SGDRegressorTrainer)   Bias_Weight + Σ weight · x / scale
    LogarithmicRegressionTrainer   a · ln(b·x + 1) + c
    ExponentialRegressionTrainer   a · e^(b·x) + c
    LogisticRegressionTrainer      A / (1 + e^(-k·(x - x0))) + off

In the linear formula, x is the value of a feature, and the sum includes only the features that Kepler knows. In the
other formulas (curves), a, b, c, A, k, x0 and off are the numbers in `CurveFit_Weights`. For the curves of all
components, Kepler takes as x the unscaled value of one feature: the first in Kepler's own list.

Kepler stores power as an unsigned number, so that a result below 0 W becomes an enormous number. Weights are safe if
neither the choice of x nor a result below 0 W can make Kepler report a wrong power. Kepler limits neither the features
nor the result. So linear weights must be safe beyond the values of the training, too (`HEAD_ROOM`). They must not be on
a feature about which the training data tell nothing (`RARE_MAXIMUM`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import msgspec

from kepler_core.arrays import FloatArray
from kepler_core.documents import DocumentError, decode_json
from kepler_core.errors import ModelError
from kepler_core.messages import LINE_CHARACTERS, shortened
from kepler_core.text_blocks import PackedText, Packer
from kepler_core.vocabulary import (
    COMPONENTS,
    PLATFORM_COMPONENTS,
    PREVIOUS_SUFFIX,
    RAPL_COMPONENTS,
    RARE_MAXIMUM,
    main_feature,
)

LINEAR_TRAINER = "SGDRegressorTrainer"
"""Trainer name by which Kepler recognises every linear model, whichever trainer fitted the model."""

KEPLER_CURVES = {
    "LogarithmicRegressionTrainer": 3,
    "ExponentialRegressionTrainer": 3,
    "LogisticRegressionTrainer": 4,
}
"""Maps the name of each trainer whose curves Kepler can evaluate to the number of weights of its curve."""

HEAD_ROOM = 3.0
"""Linear weights must not give less than 0 W for features up to this multiple of their highest values in training.

So bias + 3 · Σ negative weights must be at least 0. The condition is necessary, because Kepler 0.7.12 limits no
feature: there was a model in kepler-model-db that gave 1.8e19 mW as soon as a feature exceeded its highest value in
training."""

NO_WEIGHTS_KEY = "no_weights"
"""Key of a model's `metadata.json`. Its value is the reason why the model has no weights, although the model format can
store weights."""

_MAX_EXPONENT = 700.0  # math.exp overflows above about 709

_MAX_FACTOR = 1e30
"""A feature divided by its scale is assumed to be at most this number. Kepler never has larger quotients."""


class Variable(msgspec.Struct, omit_defaults=True):
    """A feature of the formula: its value is divided by `scale`, then multiplied by `weight` (watts).

    A feature whose scale is 0 is left out of the formula.
    """

    scale: float
    weight: float | None = None


class AllWeights(msgspec.Struct):
    """The weights of one component: the member `All_Weights` of a weight file."""

    Categorical_Variables: dict[str, Any] = {}
    Numerical_Variables: dict[str, Variable] = {}
    Bias_Weight: float | msgspec.UnsetType = msgspec.UNSET
    CurveFit_Weights: list[float] | msgspec.UnsetType = msgspec.UNSET


class _Component(msgspec.Struct):
    All_Weights: AllWeights


class _Document(msgspec.Struct):
    """The content of a weight file: weights by component. Other members of the JSON object are ignored."""

    package: _Component | msgspec.UnsetType = msgspec.UNSET
    core: _Component | msgspec.UnsetType = msgspec.UNSET
    uncore: _Component | msgspec.UnsetType = msgspec.UNSET
    dram: _Component | msgspec.UnsetType = msgspec.UNSET
    platform: _Component | msgspec.UnsetType = msgspec.UNSET

    def components(self) -> dict[str, AllWeights]:
        members = ((name, getattr(self, name)) for name in COMPONENTS)
        return {name: component.All_Weights for name, component in members if component is not msgspec.UNSET}


_decoder = msgspec.json.Decoder(_Document)
_encoder = msgspec.json.Encoder()


@attrs.frozen(eq=False)
class KeplerWeights:
    """Weights of a model that Kepler can evaluate safely."""

    trainer: str
    """Trainer name that makes Kepler pick the right formula: `LINEAR_TRAINER`, or a name in `KEPLER_CURVES`."""
    _packed: PackedText
    drawn_over: frozenset[str] = frozenset()
    """Names of the features on which the components' curves depend; empty for linear weights. Kepler takes one feature
    for all curves: the first in its own list. So the curves must not depend on any other feature."""

    @property
    def linear(self) -> bool:
        return self.trainer == LINEAR_TRAINER

    @property
    def encoded(self) -> bytes:
        """The weights of all components as members of a JSON object, without the surrounding braces."""
        return self._packed.unpack()

    @property
    def components(self) -> dict[str, AllWeights]:
        """The weights by component name."""
        return _decoder.decode(b"{" + self.encoded + b"}").components()

    def model_name(self, node_type: int) -> str:
        """Return `<Trainer>_<node type>`, the model name from which Kepler picks the formula."""
        return f"{self.trainer}_{node_type}"


def decode_weights(content: bytes) -> tuple[dict[str, AllWeights], bytes]:
    """Decode a weight file. Return the weights by component, and the same weights as JSON text.

    The JSON text has the members of an object, without the braces around them.

    Raises `ModelError` if the content is not a weight file, or if the watts computed from it may overflow. Whether
    Kepler can evaluate the weights safely is not checked.
    """
    try:
        document = decode_json(content, _decoder)
    except DocumentError as error:
        raise ModelError(f"damaged weights: {error}") from error
    components = document.components()
    if not components:
        raise ModelError(f"no weights for any of {', '.join(COMPONENTS)}")
    if (PLATFORM_COMPONENTS[0] in components) and any(c in components for c in RAPL_COMPONENTS):
        raise ModelError(
            "the file has weights for platform and for package, core, uncore or dram: "
            "Kepler would use those for platform only"
        )
    for component, weights in components.items():
        _check_sum(component, weights)
    return components, _encoder.encode(document)[1:-1]


def read_weights(
    content: bytes,
    trainer: str,
    features: Sequence[str],
    pack: Packer | None = None,
    *,
    uninformative: Mapping[str, str] | None = None,
) -> KeplerWeights:
    """Read the weights of a model from its weight file, and check that Kepler can evaluate them safely.

    `trainer` and `features` are the model's trainer name and feature names. `pack` compresses
    the weights in memory, together with the weights of other models that use the same packer. `uninformative`
    is the result of `uninformative_features`: the features that must not have a weight, with the reasons. It is None
    if the training rows are not known. Linear weights may never be on a feature whose scale is at most
    `RARE_MAXIMUM`. Raises `ModelError` with the reason if the weights are not safe.
    """
    components, members = decode_weights(content)
    packed = (pack or Packer())(members)
    if trainer in KEPLER_CURVES:
        return KeplerWeights(trainer, packed, _drawn_over(components, trainer, features, uninformative or {}))
    for component, weights in components.items():
        if weights.CurveFit_Weights is not msgspec.UNSET:
            raise ModelError(f"{component}: the file has curve weights, but Kepler knows no curve named {trainer}")
        _check_linear(component, weights, uninformative or {})
    return KeplerWeights(LINEAR_TRAINER, packed)


def uninformative_features(features: Sequence[str], scale: FloatArray, X: FloatArray) -> dict[str, str]:
    """Return the features that must not have a weight, each with the reason: it is rare or constant in training.

    `scale` holds the features' highest values, shape (features,), and `X` the rows, shape (rows, features).
    """
    reasons: dict[str, str] = {}
    for name, highest, column in zip(features, map(float, scale), X.T, strict=True):
        if len(column) and column.min() == column.max():
            reasons[name] = f"which never varied in training: it was always {float(column[0]):.6g}"
        elif highest <= RARE_MAXIMUM:
            reasons[name] = _rare_reason(highest)
    return reasons


def _rare_reason(scale: float) -> str:
    return f"whose scale, its highest value in training, is {scale:.3g}, not above {RARE_MAXIMUM:g}"


def without_negligible(weights: dict[str, Any], features: Collection[str], watts: float) -> dict[str, Any]:
    """Return a component's linear weights with 0 in place of weights on `features` that are negligible.

    `weights` has the member `All_Weights`. The weights on `features` are negligible if the sum of their absolute values
    is at most `watts`: then these features, with values up to their scale, change the power by at most `watts`.
    """
    try:
        component = msgspec.convert(weights, _Component)
    except msgspec.ValidationError:
        return weights  # `read_weights` raises an error that names the problem
    variables = component.All_Weights.Numerical_Variables
    negligible = [variable for name, variable in variables.items() if name in features and variable.weight]
    if not negligible or not sum(abs(variable.weight or 0.0) for variable in negligible) <= watts:
        return weights
    for variable in negligible:
        variable.weight = 0.0
    changed: dict[str, Any] = msgspec.to_builtins(component)
    return changed


def without_idle_power(weights: dict[str, Any], trainer: str, gain: float) -> dict[str, Any]:
    """Change a component's weights of f(x) to weights of gain · (f(x) − f(0)), which give exactly 0 W at idle.

    `weights` has the member `All_Weights`. A bias below 0 W is multiplied by `gain`, but not set to 0: a linear model
    with such a bias already predicts 0 W at idle.
    """
    try:
        component = msgspec.convert(weights, _Component)
    except msgspec.ValidationError:
        return weights  # `read_weights` raises an error that names the problem
    numbers = component.All_Weights
    if numbers.CurveFit_Weights is not msgspec.UNSET:
        if len(numbers.CurveFit_Weights) != KEPLER_CURVES.get(trainer):
            return weights
        # in each formula for a curve, the first weight is the height of the curve and the last weight its offset
        curve = [gain * numbers.CurveFit_Weights[0], *numbers.CurveFit_Weights[1:-1], 0.0]
        curve[-1] = -_at_idle(trainer, curve)
        while _at_idle(trainer, curve) < 0:  # because of a rounding error
            curve[-1] = math.nextafter(curve[-1], math.inf)
        numbers.CurveFit_Weights = curve
    if numbers.Bias_Weight is not msgspec.UNSET:
        numbers.Bias_Weight = gain * min(numbers.Bias_Weight, 0.0)
    for variable in numbers.Numerical_Variables.values():
        if variable.weight is not None:
            variable.weight *= gain
    changed: dict[str, Any] = msgspec.to_builtins(component)
    return changed


def refusal(
    content: bytes, trainer: str, features: Sequence[str], uninformative: Mapping[str, str] | None = None
) -> str | None:
    """Return the reason why Kepler cannot evaluate weights safely; None if it can. See `read_weights`."""
    try:
        read_weights(content, trainer, features, uninformative=uninformative)
    except ModelError as error:
        return shortened(str(error), LINE_CHARACTERS)
    return None


def _check_sum(component: str, weights: AllWeights) -> None:
    """Raise `ModelError` if the watts that Kepler computes may overflow to an infinite number."""
    numbers = [variable.weight or 0.0 for variable in weights.Numerical_Variables.values()]
    numbers += weights.CurveFit_Weights or []
    numbers.append(weights.Bias_Weight or 0.0)
    if not math.isfinite(sum(map(abs, numbers)) * _MAX_FACTOR):
        raise ModelError(f"{component}: the weights are so large that their sum may overflow")


def _check_linear(component: str, weights: AllWeights, uninformative: Mapping[str, str]) -> None:
    bias = weights.Bias_Weight
    if bias is msgspec.UNSET:
        raise ModelError(f"{component}: no Bias_Weight")
    if weights.Categorical_Variables:
        raise ModelError(f"{component}: categorical variables, which are not known to be safe")
    weight_of: dict[str, float] = {}
    for feature, variable in weights.Numerical_Variables.items():
        if variable.weight is None:
            raise ModelError(f"{component}: no weight for {feature}")
        if variable.scale < 0:
            raise ModelError(f"{component}: the scale of {feature} is negative")
        if variable.scale > 0 and variable.weight != 0:
            weight_of[feature] = variable.weight
            if feature.endswith(PREVIOUS_SUFFIX):
                raise ModelError(f"{component}: a weight on {feature}, which Kepler does not have")
            rare = _rare_reason(variable.scale) if variable.scale <= RARE_MAXIMUM else None
            if why := uninformative.get(feature, rare):
                raise ModelError(f"{component}: a weight of {variable.weight:.3g} W on {feature}, {why}")
    if bias < 0:
        raise ModelError(f"{component}: {bias:.3g} W at idle; Kepler reports power below 0 W as an enormous number")
    # `lowest` is the lowest power while each feature is between 0 and `HEAD_ROOM` times its scale
    lowest = bias + HEAD_ROOM * sum(min(weight, 0.0) for weight in weight_of.values())
    if lowest < 0:
        feature = min(weight_of, key=lambda name: weight_of[name])
        raise ModelError(
            f"{component}: the power falls to {lowest:.3g} W if features rise to {HEAD_ROOM:g} times their highest "
            f"values in training, because {feature} has a weight of {weight_of[feature]:.3g} W; Kepler reports power "
            "below 0 W as an enormous number"
        )


def _drawn_over(
    components: Mapping[str, AllWeights], trainer: str, features: Sequence[str], uninformative: Mapping[str, str]
) -> frozenset[str]:
    """Return the features that the curves take as x, or raise `ModelError` if a curve is not safe."""
    needed: set[str] = set()
    for component, weights in components.items():
        curve = weights.CurveFit_Weights
        expected = KEPLER_CURVES[trainer]
        if curve is msgspec.UNSET or len(curve) != expected:
            count = "no curve weights" if curve is msgspec.UNSET else f"{len(curve)} curve weights"
            raise ModelError(f"{component}: {count}, but Kepler needs {expected} for {trainer}")
        lowest = _lowest(trainer, curve)
        if not lowest >= 0:
            idle = _at_idle(trainer, curve)
            problem = f"{idle:.3g} W at idle" if idle < 0 else f"down to {lowest:.3g} W under load"
            problem = "NaN under some load" if math.isnan(lowest) else problem
            raise ModelError(f"{component}: {problem}; Kepler reports power below 0 W as an enormous number")
        if curve[0] == 0.0:
            continue  # the curve is constant, so it depends on no feature
        variables = weights.Numerical_Variables
        if not (features or variables):
            raise ModelError(f"{component}: the weight file does not name the feature that the curve takes as x")
        feature = next(iter(variables)) if len(variables) == 1 else main_feature(features, component)
        if feature in uninformative:
            raise ModelError(
                f"{component}: a curve of height {curve[0]:.3g} W over {feature}, {uninformative[feature]}"
            )
        variable = variables.get(feature)
        if variable is not None and variable.scale != 1.0:
            raise ModelError(
                f"{component}: the curve is over {feature} divided by {variable.scale:.6g}, but Kepler does not divide "
                "a curve's x"
            )
        needed.add(feature)
    return frozenset(needed)


def _lowest(trainer: str, curve: Sequence[float]) -> float:
    """Return the lowest value of a curve for x ≥ 0, in watts; NaN if the curve is NaN for some x."""
    if trainer == "LogarithmicRegressionTrainer":
        a, b, c = curve
        if b < 0:
            return math.nan  # for a large x, b·x + 1 is negative and has no logarithm
        return c if a * b >= 0 else -math.inf
    if trainer == "ExponentialRegressionTrainer":
        a, b, c = curve
        if a == 0:
            return c if b <= 0 else math.nan  # for a large x, e^(b·x) is ∞, and 0 · ∞ is NaN
        if b <= 0:
            return min(a + c, c if b < 0 else a + c)
        return a + c if a > 0 else -math.inf
    height, _, steepness, offset = curve
    idle = _at_idle(trainer, curve)
    if steepness == 0:
        return idle
    return min(idle, offset + height if steepness > 0 else offset)


def _at_idle(trainer: str, curve: Sequence[float]) -> float:
    if trainer == "LogarithmicRegressionTrainer":
        return curve[2]
    if trainer == "ExponentialRegressionTrainer":
        return curve[0] + curve[2]
    height, middle, steepness, offset = curve
    return offset + height / (1.0 + math.exp(min(steepness * middle, _MAX_EXPONENT)))
