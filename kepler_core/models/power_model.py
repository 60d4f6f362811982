"""A power model as it is stored and applied.

A model is a set of files: `metadata.json` (WIRE contract of the store), `model.json` (below), one
file per component that is not constant, and `weight.json` where Kepler can evaluate it itself.
Only model formats (`kepler_core.contracts.ModelFormat`) read component files; nothing from a file
is ever executed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import msgspec
import numpy as np

from kepler_core.arrays import FloatArray, IndexArray, SingleArray
from kepler_core.contracts import JointPredictor, Predictor
from kepler_core.errors import ModelError, PluginError, close_matches
from kepler_core.plugins import registry
from kepler_core.vocabulary import COMPONENTS

MODEL_FILE = "model.json"
METADATA_FILE = "metadata.json"
WEIGHT_FILE = "weight.json"
LAYOUT_VERSION = 1

MAX_FILE_BYTES = 256 * 2**20
FARTHEST = 1e6
"""Scaled features are cut here: a million times what was seen in training. Products of them stay
finite in single precision."""

_KEPT_ORDERS = 32


class ComponentPart(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How one component is computed: by a file in a format, or as a constant."""

    ceiling: float
    """No prediction is above this: ten times the most that was measured, in watts."""
    format: str | None = None
    file: str | None = None
    constant: float | None = None
    gain: float = 1.0
    shift: float = 0.0
    """What is predicted, cut at 0 W, is multiplied by `gain`, and `shift` (W) is added: how a model follows
    a machine whose power law has changed (`kepler_core.models.recalibration`)."""


class ModelFile(msgspec.Struct, forbid_unknown_fields=True):
    """`model.json`: features are divided by `scale` and rounded to single precision, then given to
    each component's file in the order of `features`."""

    layout: int
    features: list[str]
    scale: list[float]
    components: dict[str, ComponentPart]


@attrs.frozen(eq=False)
class Evaluated:
    """What predicts one component, or several together."""

    components: tuple[str, ...]
    predictor: Predictor | JointPredictor


@attrs.frozen(eq=False)
class PowerModel:
    """Features in, watts per component out."""

    metadata: Mapping[str, Any]
    features: tuple[str, ...]
    scale: FloatArray
    parts: Mapping[str, ComponentPart]
    predictors: Sequence[Evaluated]
    """Of all components that are not constant."""
    _limits: tuple[FloatArray, FloatArray] = attrs.field(init=False)
    _ceilings: FloatArray = attrs.field(init=False)
    _places: list[tuple[list[int], Predictor | JointPredictor]] = attrs.field(init=False)
    _together: JointPredictor | None = attrs.field(init=False)
    """Predicts all components, in their order."""
    _columns: dict[tuple[str, ...], IndexArray] = attrs.field(init=False, factory=dict)
    _corrections: tuple[FloatArray, FloatArray] | None = attrs.field(init=False)
    """Gains and shifts; None where there are none, as in most models."""

    @_limits.default
    def _of_the_scale(self) -> tuple[FloatArray, FloatArray]:
        return farthest(self.scale)

    @_ceilings.default
    def _column_of_ceilings(self) -> FloatArray:
        return np.array([[part.ceiling] for part in self.parts.values()])

    @_corrections.default
    def _columns_of_corrections(self) -> tuple[FloatArray, FloatArray] | None:
        found = [(part.gain, part.shift) for part in self.parts.values()]
        if all(correction == (1.0, 0.0) for correction in found):
            return None
        return np.array([[gain] for gain, _ in found]), np.array([[shift] for _, shift in found])

    @_places.default
    def _rows_of_predictors(self) -> list[tuple[list[int], Predictor | JointPredictor]]:
        of = list(self.parts)
        return [([of.index(name) for name in found.components], found.predictor) for found in self.predictors]

    @_together.default
    def _one_for_all(self) -> JointPredictor | None:
        alone = self.predictors[0] if len(self.predictors) == 1 else None
        return alone.predictor if alone and len(alone.components) > 1 and alone.components == self.components else None

    @property
    def name(self) -> str:
        return str(self.metadata.get("model_name", ""))

    @property
    def components(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def predict(self, values: Any, features: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Watts per component, each of shape (rows,); see `watts`."""
        return dict(zip(self.parts, self.watts(values, features), strict=True))

    def watts(self, values: Any, features: Sequence[str] | None = None) -> FloatArray:
        """Watts, shape (components, rows), finite and ≥ 0.

        `values` has shape (rows, columns), in the features' own units (per second); `features` names
        its columns, in any order, more than needed allowed; by default they are the model's own.
        `ModelError` where a feature is missing, named twice, or a value is not finite.
        """
        found = self._unlimited(self._matrix(values, self.features if features is None else features))
        # as np.clip, without its overhead; NaN stays
        np.maximum(found, 0.0, out=found)
        if self._corrections is not None:
            gains, shifts = self._corrections
            np.maximum(found * gains + shifts, 0.0, out=found)
        np.minimum(found, self._ceilings, out=found)
        if not _all_finite(found):
            wrong = next(c for c, row in zip(self.parts, found, strict=True) if not np.isfinite(row).all())
            raise ModelError(f"{self.name}: {wrong} is not a number for these features")
        return found

    def _unlimited(self, X: SingleArray) -> FloatArray:
        if self._together is not None and len(X):
            return self._together.predict(X)
        found = np.empty((len(self.parts), len(X)))
        for row, part in enumerate(self.parts.values()):
            if part.constant is not None:
                found[row] = part.constant
        if len(X):
            for rows, predictor in self._places:
                found[rows] = predictor.predict(X)
        return found

    def _matrix(self, values: Any, names: Sequence[str]) -> SingleArray:
        try:
            X = np.asarray(values, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{self.name}: values are not rows of numbers: {error}") from error
        if X.ndim != 2 or X.shape[1] != len(names):
            raise ModelError(f"{self.name}: expected rows of {len(names)} values, got shape {X.shape}")
        if (given := tuple(names)) != self.features:
            X = X.take(self._columns_of(given), axis=1)
        if not _all_finite(X):
            raise ModelError(f"{self.name}: a feature is NaN or infinite")
        return scaled(X, self.scale, self._limits)

    def _columns_of(self, names: tuple[str, ...]) -> IndexArray:
        """Where the model's features are among these names; a client keeps its order."""
        found = self._columns.get(names)
        if found is None:
            at = {name: index for index, name in enumerate(names)}
            if len(at) != len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ModelError(f"{self.name}: feature {twice!r} is given twice")
            if missing := [name for name in self.features if name not in at]:
                raise ModelError(f"{self.name} needs {', '.join(missing)}; {close_matches(missing[0], names)}")
            if len(self._columns) >= _KEPT_ORDERS:
                self._columns.clear()
            found = self._columns[names] = np.array([at[name] for name in self.features], dtype=np.intp)
        return found


def _all_finite(numbers: FloatArray) -> bool:
    # the sum of squares says so in one quick call; where that is too large a number, each is looked at
    return math.isfinite(np.vdot(numbers, numbers)) or bool(np.isfinite(numbers).all())


def farthest(scale: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The least and the most that features are, see `FARTHEST`."""
    with np.errstate(over="ignore"):  # no limit then
        most: FloatArray = scale * FARTHEST
    return -most, most


def scaled(X: FloatArray, scale: FloatArray, limits: tuple[FloatArray, FloatArray] | None = None) -> SingleArray:
    """Features as component files take them: divided by their scale, in single precision.

    Models are fitted on these very numbers, so that a tree's thresholds fall the same way later. The
    memory order is fixed because sums over it round differently otherwise. `limits` are
    `farthest(scale)`, for who has them already.
    """
    least, most = limits or farthest(scale)
    ratio = np.maximum(X, least)
    np.minimum(ratio, most, out=ratio)
    ratio /= scale
    return ratio.astype(np.float32, order="C")


def load_model(source: Path | str | Mapping[str, bytes], where: str = "model", *, resident: bool = False) -> PowerModel:
    """A model from its folder or from its files by name; `ModelError` says what is wrong with it.

    `resident` is for a process that stays and predicts a few rows at a time.
    """
    files, where = (source, where) if isinstance(source, Mapping) else (_Folder(Path(source)), str(source))
    try:
        metadata = msgspec.json.decode(_file(files, METADATA_FILE), type=dict[str, Any])
        layout = msgspec.json.decode(_file(files, MODEL_FILE), type=ModelFile)
        return _assemble(metadata, layout, files, resident)
    except (ModelError, PluginError) as error:
        raise ModelError(f"{where}: {error}") from error
    except msgspec.DecodeError as error:
        raise ModelError(f"{where}: damaged metadata.json or model.json: {error}") from error


def format_name(stored: str) -> str:
    """The registry's name of a format: without a distribution it is kepler-core's own, whoever else
    may claim the name."""
    return stored if ":" in stored else f"kepler-core:{stored}"


class _Folder(Mapping[str, bytes]):
    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise KeyError(error.strerror) from error
        if len(content) > MAX_FILE_BYTES:
            raise ModelError(f"{name} is larger than {MAX_FILE_BYTES} bytes")
        return content

    def __iter__(self) -> Any:
        return iter(sorted(entry.name for entry in self.path.iterdir()))

    def __len__(self) -> int:
        return sum(1 for _ in self.path.iterdir())


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    try:
        return files[name]
    except KeyError:
        hint = "; not a model of Kepler Core" if name == MODEL_FILE else ""
        raise ModelError(f"no file {name}{hint}") from None


def _assemble(metadata: Mapping[str, Any], layout: ModelFile, files: Mapping[str, bytes], resident: bool) -> PowerModel:
    if layout.layout != LAYOUT_VERSION:
        raise ModelError(f"layout {layout.layout} of model.json; this kepler-core reads {LAYOUT_VERSION}")
    scale = np.array(layout.scale, dtype=np.float64)
    if not layout.features or len(set(layout.features)) != len(layout.features):
        raise ModelError("features are missing or named twice")
    if len(scale) != len(layout.features) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError("every feature needs one scale, finite and above 0")
    if not layout.components:
        raise ModelError("no component")
    by_format: dict[str, dict[str, Predictor]] = {}
    for component, part in layout.components.items():
        if component not in COMPONENTS:
            raise ModelError(f"unknown component {component!r}; {close_matches(component, COMPONENTS)}")
        if not (np.isfinite(part.ceiling) and part.ceiling >= 0):
            raise ModelError(f"{component}: the ceiling must be finite and not negative")
        if not (np.isfinite(part.gain) and part.gain > 0 and np.isfinite(part.shift)):
            raise ModelError(f"{component}: gain must be finite and above 0, shift finite")
        if part.constant is not None:
            if not 0 <= part.constant <= part.ceiling:
                raise ModelError(f"{component}: a constant must be between 0 and the ceiling")
        elif part.format is None or part.file is None:
            raise ModelError(f"{component}: neither a constant nor a file in a format")
        elif part.file != Path(part.file).name or part.file in ("", ".", ".."):
            raise ModelError(f"{component}: {part.file!r} is not a file name")
        else:
            form = registry.model_formats.create(format_name(part.format))
            load = form.load_resident if resident else form.load
            by_format.setdefault(part.format, {})[component] = load(_file(files, part.file), layout.features)
    predictors: list[Evaluated] = []
    for name, found in by_format.items():
        joint = None
        if resident and len(found) > 1:
            joint = registry.model_formats.create(format_name(name)).join(list(found.values()))
        if joint is not None:
            predictors.append(Evaluated(tuple(found), joint))
        else:
            predictors += [Evaluated((component,), predictor) for component, predictor in found.items()]
    return PowerModel(metadata, tuple(layout.features), scale, dict(layout.components), predictors)
