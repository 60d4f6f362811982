"""Weights that Kepler evaluates itself, and whether it may.

Kepler picks the formula by the trainer in `model_name` and fails where name and weights disagree:

    linear (SGDRegressorTrainer)   Bias_Weight + Σ weight · x / scale, over the features it has
    LogarithmicRegressionTrainer   a · ln(b·x + 1) + c
    ExponentialRegressionTrainer   a · e^(b·x) + c
    LogisticRegressionTrainer      A / (1 + e^(-k·(x - x0))) + off

A curve's x is the first feature that the client lists, as it is, for every component. A result below
0 W wraps to an enormous one there. So weights are safe only where none of this can happen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from kepler_core.errors import ModelError
from kepler_core.text_blocks import PackedText, Packer
from kepler_core.vocabulary import COMPONENTS, PLATFORM_COMPONENTS, RAPL_COMPONENTS, main_feature

LINEAR_TRAINER = "SGDRegressorTrainer"
"""The name under which Kepler knows a linear model, whichever trainer fitted it."""

KEPLER_CURVES = {
    "LogarithmicRegressionTrainer": 3,
    "ExponentialRegressionTrainer": 3,
    "LogisticRegressionTrainer": 4,
}
"""Trainers whose weights Kepler takes for a curve, and how many it expects."""

_MAX_EXPONENT = 700.0


class Variable(msgspec.Struct, omit_defaults=True):
    """A numerical feature: divided by `scale`, times `weight` (W); scale 0 drops it."""

    scale: float
    weight: float | None = None


class AllWeights(msgspec.Struct):
    """A component's weights."""

    Categorical_Variables: dict[str, Any] = {}
    Numerical_Variables: dict[str, Variable] = {}
    Bias_Weight: float | msgspec.UnsetType = msgspec.UNSET
    CurveFit_Weights: list[float] | msgspec.UnsetType = msgspec.UNSET


class _Component(msgspec.Struct):
    All_Weights: AllWeights


class _Document(msgspec.Struct):
    """A weight file; its other members are of no use here."""

    package: _Component | msgspec.UnsetType = msgspec.UNSET
    core: _Component | msgspec.UnsetType = msgspec.UNSET
    uncore: _Component | msgspec.UnsetType = msgspec.UNSET
    dram: _Component | msgspec.UnsetType = msgspec.UNSET
    platform: _Component | msgspec.UnsetType = msgspec.UNSET

    def components(self) -> dict[str, AllWeights]:
        found = ((name, getattr(self, name)) for name in COMPONENTS)
        return {name: component.All_Weights for name, component in found if component is not msgspec.UNSET}


_decoder = msgspec.json.Decoder(_Document)
_encoder = msgspec.json.Encoder()


@attrs.frozen(eq=False)
class KeplerWeights:
    """Weights that are safe for Kepler to evaluate."""

    trainer: str
    """As the client must be told it: `LINEAR_TRAINER` or the name of a curve."""
    _packed: PackedText
    drawn_over: frozenset[str] = frozenset()
    """Features that its curves are drawn over: the client has the right one only if it is the one that
    it lists first."""

    @property
    def linear(self) -> bool:
        return self.trainer == LINEAR_TRAINER

    @property
    def encoded(self) -> bytes:
        """The components as JSON members, without the braces around them."""
        return self._packed.unpack()

    @property
    def components(self) -> dict[str, AllWeights]:
        """The weights of each component."""
        return _decoder.decode(b"{" + self.encoded + b"}").components()

    def model_name(self, node_type: int) -> str:
        """`<Trainer>_<node type>`, as the client takes it."""
        return f"{self.trainer}_{node_type}"


def read_weights(content: bytes, trainer: str, features: Sequence[str], pack: Packer | None = None) -> KeplerWeights:
    """The weights of a model from its weight file; `ModelError` says why Kepler may not evaluate them.

    `trainer` and `features` are those of the model; `pack` keeps the weights of many models small.
    """
    try:
        document = _decoder.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelError(f"damaged weights: {error}") from error
    components = document.components()
    packed = (pack or Packer())(_encoder.encode(document)[1:-1])
    if not components:
        raise ModelError(f"no weights for any of {', '.join(COMPONENTS)}")
    if (PLATFORM_COMPONENTS[0] in components) and any(c in components for c in RAPL_COMPONENTS):
        raise ModelError("weights for platform and for its parts: the client would use platform only")
    if trainer in KEPLER_CURVES:
        return KeplerWeights(trainer, packed, _drawn_over(components, trainer, features))
    for component, weights in components.items():
        if weights.CurveFit_Weights is not msgspec.UNSET:
            raise ModelError(f"{component}: curve weights, but the client knows no curve named {trainer}")
        _check_linear(component, weights)
    return KeplerWeights(LINEAR_TRAINER, packed)


def _check_linear(component: str, weights: AllWeights) -> None:
    bias = weights.Bias_Weight
    if bias is msgspec.UNSET:
        raise ModelError(f"{component}: no Bias_Weight")
    if weights.Categorical_Variables:
        raise ModelError(f"{component}: categorical variables, which are not known to be safe")
    lowest = bias
    for feature, variable in weights.Numerical_Variables.items():
        if variable.weight is None:
            raise ModelError(f"{component}: no weight for {feature}")
        if variable.scale < 0:
            raise ModelError(f"{component}: the scale of {feature} is negative")
        if variable.scale > 0:
            lowest += min(variable.weight, 0.0)
    if bias < 0:
        raise ModelError(f"{component}: {bias:.3g} W at idle; below 0 W the client's number wraps")
    # every feature between 0 and its scale, the most that was seen in training
    if lowest < 0:
        raise ModelError(f"{component}: down to {lowest:.3g} W for usual values; below 0 W the client's number wraps")


def _drawn_over(components: Mapping[str, AllWeights], trainer: str, features: Sequence[str]) -> frozenset[str]:
    needed: set[str] = set()
    for component, weights in components.items():
        curve = weights.CurveFit_Weights
        expected = KEPLER_CURVES[trainer]
        if curve is msgspec.UNSET or len(curve) != expected:
            found = "no curve weights" if curve is msgspec.UNSET else f"{len(curve)} curve weights"
            raise ModelError(f"{component}: {found}, the client takes {expected} for {trainer}")
        lowest = _lowest(trainer, curve)
        if not lowest >= 0:
            idle = _at_idle(trainer, curve)
            found = f"{idle:.3g} W at idle" if idle < 0 else f"down to {lowest:.3g} W under load"
            found = "not a number for all loads" if math.isnan(lowest) else found
            raise ModelError(f"{component}: {found}; below 0 W the client's number wraps")
        if curve[0] == 0.0:
            continue  # constant: no feature matters
        variables = weights.Numerical_Variables
        if not (features or variables):
            raise ModelError(f"{component}: nobody says which feature the curve is drawn over")
        feature = next(iter(variables)) if len(variables) == 1 else main_feature(features, component)
        variable = variables.get(feature)
        if variable is not None and variable.scale != 1.0:
            raise ModelError(f"{component}: a curve over {feature} / {variable.scale:.6g}; the client does not divide")
        needed.add(feature)
    return frozenset(needed)


def _lowest(trainer: str, curve: Sequence[float]) -> float:
    """The lowest that a curve comes to for x ≥ 0, in watts; NaN where it is not a number everywhere."""
    if trainer == "LogarithmicRegressionTrainer":
        a, b, c = curve
        if b < 0:
            return math.nan  # the logarithm of a negative number
        return c if a * b >= 0 else -math.inf
    if trainer == "ExponentialRegressionTrainer":
        a, b, c = curve
        if a == 0:
            return c if b <= 0 else math.nan  # 0 · ∞ where x is large
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
