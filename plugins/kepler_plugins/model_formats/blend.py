"""The model format `blend`: the weighted sum of tree ensembles and a physical model, as JSON.

The file has the trees as arrays (`stored_trees`), in base64. The module `leaf_masks` evaluates the trees with NumPy
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, Any

import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, SingleArray
from kepler_core.contracts import JointPredictor, ModelFormat, Predictor, Regressor
from kepler_core.documents import MAX_NUMBER, DocumentError, decode_json
from kepler_core.errors import ModelError
from kepler_core.messages import quoted
from kepler_plugins.model_formats.blend_terms import LogRatio, PhysicalModel, with_ratios
from kepler_plugins.model_formats.leaf_masks import MAX_BYTES, MAX_LEAVES, LeafMasks, join_leaf_masks, leaf_masks
from kepler_plugins.model_formats.stored_trees import MAX_COLUMNS, decode

LAYOUT = 1
GROUP_SIZE = 50
"""Number of trees in a group. The leaf masks of a group (bit masks of the leaves, see the module `leaf_masks`) are made
together, and their size rises with the square of this number."""
MAX_GROUPS = 24
"""Limit of the number of groups of trees per component."""
MAX_MASK_BYTES = 24_000_000
"""Limit of the size of all leaf masks (bit masks of the trees' leaves) of a component, in bytes."""
_ROWS_PER_BATCH = 32
"""Number of rows that are predicted together, so that the intermediate results fit into the processor's cache."""

Name = Annotated[str, msgspec.Meta(max_length=200)]
Watts = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
Scale = Annotated[float, msgspec.Meta(gt=0, le=float(MAX_NUMBER))]


class StoredRatio(msgspec.Struct, forbid_unknown_fields=True):
    """A ratio of two features (`blend_terms.LogRatio`). The scales convert scaled features to their own units."""

    top: Name
    bottom: Name
    top_scale: Scale
    bottom_scale: Scale


class StoredTerms(msgspec.Struct, forbid_unknown_fields=True):
    """The weights of one feature in the physical model, in watts."""

    feature: Watts
    root: Watts
    square: Watts


class StoredPhysical(msgspec.Struct, forbid_unknown_fields=True):
    """The physical model (`blend_terms.PhysicalModel`), and the factor of its prediction in the blend."""

    factor: Annotated[float, msgspec.Meta(ge=0, le=1)]
    terms: dict[Name, StoredTerms]
    bias: Watts
    highest: Watts


class StoredEnsemble(msgspec.Struct, forbid_unknown_fields=True):
    """One tree ensemble, and the factor of its prediction in the blend."""

    name: Name
    fitted_by: Name
    """The library that fitted the ensemble, with its version."""
    factor: Annotated[float, msgspec.Meta(ge=0, le=1)]
    base: Watts
    """Power that is added to the sum of the trees' leaves."""
    features: bytes
    """For each tree node, the number of the column that it compares, or -1 for a leaf."""
    numbers: bytes
    """For each tree node, its threshold, or the power of a leaf in watts."""


class StoredBlend(msgspec.Struct, forbid_unknown_fields=True):
    """The content of a file in the format `blend`."""

    layout: int
    features: Annotated[list[Name], msgspec.Meta(max_length=MAX_COLUMNS)]
    ratios: Annotated[list[StoredRatio], msgspec.Meta(max_length=MAX_COLUMNS)]
    physical: StoredPhysical
    ensembles: Annotated[list[StoredEnsemble], msgspec.Meta(min_length=1, max_length=MAX_GROUPS)]


class BlendPredictor:
    """Predicts the watts of one component as a weighted sum of tree ensembles and a physical model."""

    def __init__(
        self,
        ratios: tuple[LogRatio, ...],
        groups: list[LeafMasks],
        factors: FloatArray,
        physical: PhysicalModel,
        physical_factor: float,
    ) -> None:
        """Create the blend from groups of trees and a physical model. Each of them has a factor."""
        self.ratios = ratios
        self.groups = groups
        self.factors = factors
        self.physical = physical
        self.physical_factor = physical_factor

    @cached_property
    def _evaluator(self) -> JointBlend:
        return JointBlend([self])

    def predict(self, X: SingleArray) -> FloatArray:
        watts: FloatArray = self._evaluator.predict(X)[0]
        return watts


class JointBlend:
    """The blends of several components over the same features and ratios, evaluated together."""

    def __init__(self, blends: Sequence[BlendPredictor]) -> None:
        self._ratios = blends[0].ratios
        self._masks = join_leaf_masks([group for blend in blends for group in blend.groups])
        self._factors = np.zeros((len(blends), sum(len(blend.groups) for blend in blends)))
        first = 0
        for row, blend in enumerate(blends):
            self._factors[row, first : first + len(blend.groups)] = blend.factors
            first += len(blend.groups)
        self._physical = [(blend.physical, blend.physical_factor) for blend in blends]

    def predict(self, X: SingleArray) -> FloatArray:
        """Return the predicted watts, shape (components, rows)."""
        watts = np.empty((len(self._factors), len(X)))
        for first in range(0, len(X), _ROWS_PER_BATCH):
            rows = slice(first, first + _ROWS_PER_BATCH)
            watts[:, rows] = self._factors @ self._masks.predict(with_ratios(X[rows], self._ratios))
        for row, (physical, factor) in enumerate(self._physical):
            watts[row] += factor * physical.predict(X)
        return watts


class BlendFormat(ModelFormat):
    """Stores regressors whose `blend` method returns a `StoredBlend` for the names of the features."""

    suffix = ".json"

    def supports(self, regressor: Regressor) -> bool:
        return callable(getattr(regressor, "blend", None))

    def dump(self, regressor: Regressor, features: Sequence[str], X: SingleArray) -> bytes:
        fitted: Any = regressor  # `supports` has accepted the regressor's type
        content = msgspec.json.encode(fitted.blend(features))
        self.load(content, features)  # raises if a limit is exceeded
        return content

    def load(self, content: bytes, features: Sequence[str]) -> Predictor:
        try:
            blend = decode_json(content, StoredBlend)
        except DocumentError as error:
            raise ModelError(f"not a blend: {error}") from error
        if blend.layout != LAYOUT:
            raise ModelError(f"layout {blend.layout} of a blend; this version reads layout {LAYOUT}")
        if blend.features != list(features):
            raise ModelError("the features of the blend are not the model's features")
        ratios = tuple(_ratio(stored, features) for stored in blend.ratios)
        groups, factors = _groups(blend.ensembles, len(features) + len(ratios))
        physical = _physical(blend.physical, features)
        return BlendPredictor(ratios, groups, factors, physical, blend.physical.factor)

    def join(self, predictors: Sequence[Predictor]) -> JointPredictor | None:
        blends = [predictor for predictor in predictors if isinstance(predictor, BlendPredictor)]
        if len(blends) < len(predictors) or len({blend.ratios for blend in blends}) != 1:
            return None
        return JointBlend(blends)


def _ratio(stored: StoredRatio, features: Sequence[str]) -> LogRatio:
    columns = (_column(stored.top, features), _column(stored.bottom, features))
    return LogRatio(*columns, stored.top_scale, stored.bottom_scale)


def _column(name: str, features: Sequence[str]) -> int:
    if name not in features:
        raise ModelError(f"the feature {quoted(name)} of a blend is not one of the model's features")
    return list(features).index(name)


def _physical(stored: StoredPhysical, features: Sequence[str]) -> PhysicalModel:
    weights = np.zeros((3, len(features)))
    for name, terms in stored.terms.items():
        weights[:, _column(name, features)] = terms.feature, terms.root, terms.square
    return PhysicalModel(weights, stored.bias, stored.highest)


def _groups(ensembles: Sequence[StoredEnsemble], n_columns: int) -> tuple[list[LeafMasks], FloatArray]:
    """Return the leaf masks (bit masks of the leaves) of all groups of trees, and the factor of each group."""
    if n_columns > MAX_COLUMNS:
        raise ModelError(f"a blend of {n_columns} columns; at most {MAX_COLUMNS} are supported")
    groups: list[LeafMasks] = []
    factors = []
    for ensemble in ensembles:
        for trees in decode(ensemble.features, ensemble.numbers, n_columns, ensemble.base, GROUP_SIZE):
            if len(groups) == MAX_GROUPS:
                raise ModelError(f"a blend of more than {MAX_GROUPS * GROUP_SIZE} trees")
            if (masks := leaf_masks(trees)) is None:
                raise ModelError(
                    f"a tree of the ensemble {quoted(ensemble.name)} has more than {MAX_LEAVES} leaves, or the leaf "
                    f"masks of {GROUP_SIZE} trees take more than {MAX_BYTES} bytes"
                )
            groups.append(masks)
            factors.append(ensemble.factor)
    if sum(of_feature.nbytes for group in groups for of_feature in group.masks) > MAX_MASK_BYTES:
        raise ModelError(f"the leaf masks of a blend take more than {MAX_MASK_BYTES} bytes")
    return groups, np.array(factors)
