"""A power model predicts the watts of each component of a machine from the machine's features.

A stored model is a set of files: `metadata.json` (see docs/models-and-store.md), `model.json`
(`ModelFile`), one file for each component that is not constant, and `weight.json` if Kepler can
evaluate the model itself. `kepler_core.models.loading` makes a `PowerModel` from these files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray, IndexArray, SingleArray
from kepler_core.contracts import JointPredictor, Predictor, RowFunction
from kepler_core.errors import ModelError, close_matches
from kepler_core.messages import one_line
from kepler_core.models.predictors import ComponentPredictor, row_function
from kepler_core.models.single_rows import Proportional, RowEvaluator

MODEL_FILE = "model.json"
METADATA_FILE = "metadata.json"
WEIGHT_FILE = "weight.json"
HELD_OUT_FILE = "held_out.json.gz"
"""Name of the file with predictions for held-out samples (`kepler_core.pipeline.held_out_samples`). The model's zip
file does not contain this file."""
LAYOUT_VERSION = 1

MAX_FILE_BYTES = 256 * 2**20
"""Maximum size of a file of a pipeline. JSON documents and the files of components have lower limits."""
MAX_DOCUMENT_BYTES = 2 * 2**20
"""Maximum size of `metadata.json`, `model.json` and `weight.json`."""
MAX_COMPONENT_BYTES = 32 * 2**20
"""Maximum size of the file of one component, because a process that uses the model has to load the file into memory."""
FEATURE_LIMIT = 1.05
"""Upper limit of a feature, as a multiple of its largest value in training. Larger values are replaced by the limit,
because no model is known to be right for them."""
CEILING_FACTOR = 1.2
"""The predictions of a component are limited to this multiple of its highest known power."""
PROPORTIONAL_LIMIT = 3.0
"""Replaces `FEATURE_LIMIT` and `CEILING_FACTOR` where a formula computes the power of DRAM from cache misses. The
limit is higher, because the energy of DRAM stays proportional to the number of accesses above the highest number in
training."""
PROPORTIONAL_FEATURES = {"dram": "cache_miss"}
"""Maps each component whose power is proportional to a single feature to this feature."""

_MAX_COLUMN_ORDERS = 32
_MAX_CACHED_NAMES = 64
_MAX_CACHED_CHARACTERS = 2000
"""The cache of column orders has at most `_MAX_COLUMN_ORDERS` orders. An order is cached only if it has at most
`_MAX_CACHED_NAMES` names with at most `_MAX_CACHED_CHARACTERS` characters in total. Clients choose the names, so a
cache without limits could fill the memory."""


def max_bytes_of(path: str) -> int:
    """Return the maximum size of a file of a pipeline, in bytes. For a component's file, use `max_bytes_to_load`."""
    is_document = path.rpartition("/")[2] in (METADATA_FILE, MODEL_FILE, WEIGHT_FILE)
    return MAX_DOCUMENT_BYTES if is_document else MAX_FILE_BYTES


def max_bytes_to_load(name: str) -> int:
    """Return the maximum size, in bytes, of a file from which a model is loaded: a document or a component's file."""
    return min(max_bytes_of(name), MAX_COMPONENT_BYTES)


def ceiling_of(highest_watts: float, proportional_to: str | None = None) -> float:
    """Return the upper limit of a component's predictions, in watts, from its highest known power.

    `proportional_to` is `ComponentPart.proportional_to`.
    """
    return (CEILING_FACTOR if proportional_to is None else PROPORTIONAL_LIMIT) * highest_watts


class ComponentPart(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How the power of one component is computed: by a file in a model format, or as a constant."""

    ceiling: float
    """Upper limit of the component's predictions in watts, from `ceiling_of`."""
    format: str | None = None
    file: str | None = None
    constant: float | None = None
    proportional_to: str | None = None
    """The feature whose upper limit is `PROPORTIONAL_LIMIT` instead of `FEATURE_LIMIT` for this component."""
    gain: float = 1.0
    shift: float = 0.0
    """A prediction below 0 W becomes 0 W. Then the prediction is multiplied by `gain`, and `shift` (watts) is added.
    The online trainer sets both numbers after a power shift of the machine (`kepler_core.models.recalibration`)."""


class ModelFile(msgspec.Struct, forbid_unknown_fields=True):
    """The content of `model.json`.

    Features are divided by `scale` and rounded to single precision. Each component's file takes the features
    in the order of `features`.
    """

    layout: int
    features: list[str]
    scale: list[float]
    """Largest absolute value of each feature in training; 1 for a feature that was always 0."""
    components: dict[str, ComponentPart]
    lowest: list[float] | None = None
    """Lowest value of each feature for which the model was trained: the lowest value of a node or, for models of
    containers, 0. None if these values are not known."""


@attrs.frozen(eq=False)
class PowerModel:
    """A model that predicts the power of each component from a machine's features."""

    metadata: Mapping[str, Any]
    features: tuple[str, ...]
    scale: FloatArray
    lowest: FloatArray
    """Lowest value of each feature for which the model was trained, shape (features,); see `ModelFile.lowest`. Minus
    infinity stands for an unknown value."""
    parts: Mapping[str, ComponentPart]
    predictors: Sequence[ComponentPredictor]
    """The predictors of the components whose power is not constant."""
    _proportional: tuple[list[int], int] | None = attrs.field(init=False)
    """The components whose power is proportional to a feature (as indices of `parts`), and the index of this feature.
    All these components have the same feature. None if there are no such components."""
    _limits: tuple[FloatArray, FloatArray] = attrs.field(init=False)
    _range: tuple[FloatArray, FloatArray] = attrs.field(init=False)
    """Lowest and highest value of each feature that is not outside the range of the training data (see `outside`)."""
    _ceilings: FloatArray = attrs.field(init=False)
    _rows: list[tuple[list[int], Predictor | JointPredictor]] = attrs.field(init=False)
    """Each predictor, with the rows that it computes in the result of `watts`. Each row of the result is a
    component."""
    _joint: JointPredictor | None = attrs.field(init=False)
    """The predictor that predicts all components, in the order of `parts`; None if no predictor predicts all of
    them."""
    _columns: dict[tuple[str, ...], tuple[IndexArray, list[int]]] = attrs.field(init=False, factory=dict)
    _corrections: tuple[FloatArray, FloatArray] | None = attrs.field(init=False)
    """`gain` and `shift` of each component, as two arrays of shape (components, 1). None if no component has a gain
    other than 1 or a shift other than 0, as in most models."""

    @_proportional.default
    def _proportional_components(self) -> tuple[list[int], int] | None:
        feature_of = {number: part.proportional_to for number, part in enumerate(self.parts.values())}
        numbers = [number for number, feature in feature_of.items() if feature is not None]
        return (numbers, self.features.index(str(feature_of[numbers[0]]))) if numbers else None

    @_limits.default
    def _limits_of_the_scale(self) -> tuple[FloatArray, FloatArray]:
        lowest, highest = feature_limits(self.scale)
        if self._proportional is not None:
            column = self._proportional[1]
            highest[column] = self.scale[column] * PROPORTIONAL_LIMIT
        return lowest, highest

    @_range.default
    def _range_of_the_training(self) -> tuple[FloatArray, FloatArray]:
        margin = (FEATURE_LIMIT - 1) * self.scale
        return np.maximum(self.lowest, -self.scale) - margin, self.scale + margin

    @_ceilings.default
    def _column_of_ceilings(self) -> FloatArray:
        return np.array([[part.ceiling] for part in self.parts.values()])

    @_corrections.default
    def _columns_of_corrections(self) -> tuple[FloatArray, FloatArray] | None:
        corrections = [(part.gain, part.shift) for part in self.parts.values()]
        if all(correction == (1.0, 0.0) for correction in corrections):
            return None
        return np.array([[gain] for gain, _ in corrections]), np.array([[shift] for _, shift in corrections])

    @_rows.default
    def _rows_of_predictors(self) -> list[tuple[list[int], Predictor | JointPredictor]]:
        names = list(self.parts)
        return [([names.index(name) for name in entry.components], entry.predictor) for entry in self.predictors]

    @_joint.default
    def _predictor_of_all(self) -> JointPredictor | None:
        only = self.predictors[0] if len(self.predictors) == 1 else None
        return only.predictor if only and len(only.components) > 1 and only.components == self.components else None

    @property
    def name(self) -> str:
        return str(self.metadata.get("model_name", ""))

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def predict(self, values: Any, features: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return the predicted watts by component, each of shape (rows,). See `watts` for the arguments."""
        return dict(zip(self.parts, self.watts(values, features), strict=True))

    def watts(self, values: Any, features: Sequence[str] | None = None) -> FloatArray:
        """Return the predicted watts, shape (components, rows). All of them are finite and not negative.

        `values` has shape (rows, columns), in the features' own units (per second). `features` names
        the columns; by default they are the model's features. The columns may be in any order, and there
        may be columns that the model does not need. Raises `ModelError` if a feature is missing or named
        twice, a value is not finite, or the model cannot be evaluated.
        """
        return self.watts_of(self.columns(values, features))

    def outside(self, values: Any, features: Sequence[str] | None = None) -> BoolArray:
        """Return which rows have a feature outside the range of the training data, shape (rows,).

        The range of a feature ends at `FEATURE_LIMIT` times its largest value in training, the upper limit of the
        feature. It begins below the lowest value in training, by the same margin. `watts` explains the arguments.
        """
        return self.outside_of(self.columns(values, features))

    def columns(self, values: Any, features: Sequence[str] | None = None) -> FloatArray:
        """Return the input of `watts_of` and `outside_of`: the model's features, shape (rows, features).

        A caller of both methods needs to call this method only once. See `watts` for the arguments and the errors.
        """
        names = self.features if features is None else features
        try:
            X = np.asarray(values, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{self.name}: values are not rows of numbers: {error}") from error
        if X.ndim != 2 or X.shape[1] != len(names):
            raise ModelError(f"{self.name}: expected rows of {len(names)} values, got shape {X.shape}")
        if (columns := tuple(names)) != self.features:
            X = X.take(self.columns_of(columns)[0], axis=1)
        if not _all_finite(X):
            raise ModelError(f"{self.name}: a feature is NaN or infinite")
        return X

    def watts_of(self, X: FloatArray) -> FloatArray:
        """Return the predicted watts. X is the result of `columns`; `watts` explains the errors."""
        try:
            watts = self._unlimited(scaled(X, self.scale, self._limits))
        except Exception as error:  # model formats and their libraries raise exceptions of any class
            raise ModelError(f"{self.name} cannot be evaluated: {one_line(error, 200)}") from error
        # np.clip has more overhead than np.maximum and np.minimum. NaN stays NaN and is reported below.
        np.maximum(watts, 0.0, out=watts)
        if self._corrections is not None:
            gains, shifts = self._corrections
            np.maximum(watts * gains + shifts, 0.0, out=watts)
        np.minimum(watts, self._ceilings, out=watts)
        if not _all_finite(watts):
            component = next(c for c, row in zip(self.parts, watts, strict=True) if not np.isfinite(row).all())
            raise ModelError(f"{self.name}: the prediction for {component} is NaN or infinite for these features")
        return watts

    def row_evaluator(self, own_features: int) -> RowEvaluator | None:
        """Return an object that predicts single rows; None if a predictor cannot predict single rows.

        Only the first `own_features` features of a row decide whether it is outside the range of the training.
        """
        predict = self._row_function()
        if predict is None:
            return None
        return RowEvaluator(
            predict,
            self.scale.tolist(),
            list(zip(*(limit.tolist() for limit in self._range), strict=True)),
            list(zip(*(limit.tolist() for limit in self._limits), strict=True)),
            own_features,
            None if self._proportional is None else Proportional(*self._proportional, float(np.float32(FEATURE_LIMIT))),
            [part.ceiling for part in self.parts.values()],
            None if self._corrections is None else [(part.gain, part.shift) for part in self.parts.values()],
        )

    def _row_function(self) -> RowFunction | None:
        """Return a function that predicts all components of a single row, before limits and corrections are applied."""
        if self._joint is not None:
            return row_function(self._joint)
        functions = [(rows, row_function(predictor)) for rows, predictor in self._rows]
        known = [(rows, function) for rows, function in functions if function is not None]
        if len(known) < len(functions):
            return None
        constants = [part.constant or 0.0 for part in self.parts.values()]

        def predict_row(row: list[float]) -> list[float]:
            watts = constants.copy()
            for rows, predict in known:
                for component, predicted in zip(rows, predict(row), strict=True):
                    watts[component] = predicted
            return watts

        return predict_row

    def outside_of(self, X: FloatArray) -> BoolArray:
        """Return which rows are outside the range of the training data. X is the result of `columns`."""
        lowest, highest = self._range
        beyond = lowest > X
        beyond |= highest < X
        rows: BoolArray = np.logical_or.reduce(beyond, axis=1) if any_true(beyond) else np.zeros(len(X), dtype=bool)
        return rows

    def _unlimited(self, X: SingleArray) -> FloatArray:
        """Return the watts from the predictors and constants, before limits and corrections are applied."""
        if self._proportional is None or len(X) == 0:
            return self._evaluated(X)
        components, column = self._proportional
        if X[:, column].max() <= FEATURE_LIMIT:
            return self._evaluated(X)
        cut = X.copy()
        np.minimum(cut[:, column], FEATURE_LIMIT, out=cut[:, column])
        watts = self._evaluated(cut)
        watts[components] = self._evaluated(X)[components]
        return watts

    def _evaluated(self, X: SingleArray) -> FloatArray:
        if self._joint is not None and len(X):
            return self._joint.predict(X).reshape(len(self.parts), len(X))
        watts = np.empty((len(self.parts), len(X)))
        for row, part in enumerate(self.parts.values()):
            if part.constant is not None:
                watts[row] = part.constant
        if len(X):
            for rows, predictor in self._rows:
                watts[rows] = predictor.predict(X)
        return watts

    def columns_of(self, names: tuple[str, ...]) -> tuple[IndexArray, list[int]]:
        """Return the position in `names` of each feature of the model, as an array and as a list.

        The result is cached, because a client usually sends its columns in the same order again. Raises `ModelError`
        if a feature is missing or named twice.
        """
        columns = self._columns.get(names)
        if columns is None:
            index_of = {name: index for index, name in enumerate(names)}
            if len(index_of) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ModelError(f"{self.name}: feature {twice!r} is given twice")
            if missing := [name for name in self.features if name not in index_of]:
                raise ModelError(f"{self.name} needs {', '.join(missing)}; {close_matches(missing[0], names)}")
            positions = [index_of[name] for name in self.features]
            columns = np.array(positions, dtype=np.intp), positions
            if len(names) <= _MAX_CACHED_NAMES and sum(map(len, names)) <= _MAX_CACHED_CHARACTERS:
                if len(self._columns) >= _MAX_COLUMN_ORDERS:
                    self._columns.clear()
                self._columns[names] = columns
        return columns


def any_true(mask: BoolArray) -> bool:
    """Return whether any element is true. This is several times as fast as `mask.any()` if the mask is small."""
    return 1 in mask.tobytes()


def _all_finite(numbers: FloatArray) -> bool:
    # If the sum of squares is finite, all numbers are finite, and the sum is fast to compute. If the sum is not finite,
    # it may have overflowed: then check each number.
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


def feature_limits(scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and the highest allowed value of each feature before scaling (see `FEATURE_LIMIT`)."""
    highest: FloatArray = scale * FEATURE_LIMIT
    return -highest, highest


def scaled(X: FloatArray, scale: FloatArray, limits: tuple[FloatArray, FloatArray] | None = None) -> SingleArray:
    """Return features in the form that component files take: divided by their scale, in single precision.

    Models are fitted on these rounded numbers, so that a decision tree compares its thresholds with the same
    numbers in training and in prediction. The result always has C memory order, because NumPy may round sums
    differently in another memory order. Pass the result of `feature_limits(scale)` as `limits` if you have it,
    so that it is not computed again.
    """
    lowest, highest = limits or feature_limits(scale)
    ratio = np.maximum(X, lowest)
    np.minimum(ratio, highest, out=ratio)
    ratio /= scale
    return ratio.astype(np.float32, order="C")
