"""Weights that Kepler evaluates itself, and the checks that it is safe for Kepler to do so.

Kepler picks the formula by the trainer in `model_name`, and fails if name and weights disagree:

    linear (SGDRegressorTrainer)   Bias_Weight + Σ weight · x / scale, over the features it has
    LogarithmicRegressionTrainer   a · ln(b·x + 1) + c
    ExponentialRegressionTrainer   a · e^(b·x) + c
    LogisticRegressionTrainer      A / (1 + e^(-k·(x - x0))) + off

For a curve, Kepler takes as x the first feature that it lists, unscaled, for every component. Kepler
stores power as an unsigned number, so a result below 0 W becomes an enormous one. Weights are safe
if neither can give a wrong result.
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
"""Kepler's name for a linear model, whichever trainer fitted it."""

KEPLER_CURVES = {
    "LogarithmicRegressionTrainer": 3,
    "ExponentialRegressionTrainer": 3,
    "LogisticRegressionTrainer": 4,
}
"""Trainers whose weights Kepler evaluates as a curve -> number of weights of that curve."""

_MAX_EXPONENT = 700.0  # math.exp overflows above about 709


class Variable(msgspec.Struct, omit_defaults=True):
    """A numerical feature, divided by `scale` and multiplied by `weight` (W). A scale of 0 drops it."""

    scale: float
    weight: float | None = None


class AllWeights(msgspec.Struct):
    """The weights of one component."""

    Categorical_Variables: dict[str, Any] = {}
    Numerical_Variables: dict[str, Variable] = {}
    Bias_Weight: float | msgspec.UnsetType = msgspec.UNSET
    CurveFit_Weights: list[float] | msgspec.UnsetType = msgspec.UNSET


class _Component(msgspec.Struct):
    All_Weights: AllWeights


class _Document(msgspec.Struct):
    """A weight file. Members other than the components are ignored."""

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
    """Weights that are safe for Kepler to evaluate."""

    trainer: str
    """Trainer name that makes Kepler pick the right formula: `LINEAR_TRAINER` or a curve's trainer."""
    _packed: PackedText
    drawn_over: frozenset[str] = frozenset()
    """Features that the curves take as x. Kepler evaluates the curves correctly only if it lists this
    feature first."""

    @property
    def linear(self) -> bool:
        return self.trainer == LINEAR_TRAINER

    @property
    def encoded(self) -> bytes:
        """The components as JSON members, without the surrounding braces."""
        return self._packed.unpack()

    @property
    def components(self) -> dict[str, AllWeights]:
        """The weights of each component."""
        return _decoder.decode(b"{" + self.encoded + b"}").components()

    def model_name(self, node_type: int) -> str:
        """Return `<Trainer>_<node type>`, the name by which Kepler picks the formula."""
        return f"{self.trainer}_{node_type}"


def read_weights(content: bytes, trainer: str, features: Sequence[str], pack: Packer | None = None) -> KeplerWeights:
    """Read the weights of a model from its weight file, and check that Kepler can evaluate them safely.

    `trainer` and `features` are those of the model. `pack` compresses the weights together with those
    of other models. Raises `ModelError` with the reason if the weights are not safe.
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
    # the lowest power while every feature is between 0 and its scale, the highest value in training
    if lowest < 0:
        raise ModelError(f"{component}: down to {lowest:.3g} W for usual values; below 0 W the client's number wraps")


def _drawn_over(components: Mapping[str, AllWeights], trainer: str, features: Sequence[str]) -> frozenset[str]:
    """Return the features that the curves take as x; `ModelError` if a curve is not safe."""
    needed: set[str] = set()
    for component, weights in components.items():
        curve = weights.CurveFit_Weights
        expected = KEPLER_CURVES[trainer]
        if curve is msgspec.UNSET or len(curve) != expected:
            count = "no curve weights" if curve is msgspec.UNSET else f"{len(curve)} curve weights"
            raise ModelError(f"{component}: {count}, the client takes {expected} for {trainer}")
        lowest = _lowest(trainer, curve)
        if not lowest >= 0:
            idle = _at_idle(trainer, curve)
            problem = f"{idle:.3g} W at idle" if idle < 0 else f"down to {lowest:.3g} W under load"
            problem = "not a number for all loads" if math.isnan(lowest) else problem
            raise ModelError(f"{component}: {problem}; below 0 W the client's number wraps")
        if curve[0] == 0.0:
            continue  # a constant does not depend on x
        variables = weights.Numerical_Variables
        if not (features or variables):
            raise ModelError(f"{component}: the file does not say which feature the curve is drawn over")
        feature = next(iter(variables)) if len(variables) == 1 else main_feature(features, component)
        variable = variables.get(feature)
        if variable is not None and variable.scale != 1.0:
            raise ModelError(f"{component}: a curve over {feature} / {variable.scale:.6g}; the client does not divide")
        needed.add(feature)
    return frozenset(needed)


def _lowest(trainer: str, curve: Sequence[float]) -> float:
    """Return the lowest value of a curve for x ≥ 0, in watts; NaN if the curve is not a number for all x."""
    if trainer == "LogarithmicRegressionTrainer":
        a, b, c = curve
        if b < 0:
            return math.nan  # the logarithm of a negative number for a large x
        return c if a * b >= 0 else -math.inf
    if trainer == "ExponentialRegressionTrainer":
        a, b, c = curve
        if a == 0:
            return c if b <= 0 else math.nan  # 0 · ∞ for a large x
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
