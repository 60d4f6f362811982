"""Load a power model from its files.

Only model formats (`kepler_core.contracts.ModelFormat`) read the files of components. The content of a
file is never executed as code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import Predictor
from kepler_core.documents import DocumentError, decode_json, decode_object
from kepler_core.errors import ModelError, PluginError, close_matches
from kepler_core.models.power_model import (
    LAYOUT_VERSION,
    METADATA_FILE,
    MODEL_FILE,
    PROPORTIONAL_FEATURES,
    ComponentPart,
    ModelFile,
    PowerModel,
    max_bytes_to_load,
)
from kepler_core.models.predictors import ComponentPredictor
from kepler_core.plugins import registry
from kepler_core.vocabulary import COMPONENTS


def load_model(source: Path | str | Mapping[str, bytes], where: str = "model", *, resident: bool = False) -> PowerModel:
    """Load a model from its folder, or from a mapping of its file names to contents.

    Only `metadata.json`, `model.json` and the files that `model.json` names are read from the folder or the mapping,
    each up to `max_bytes_to_load`. `where` names the model in errors. A process that keeps the model passes
    `resident=True`: then model formats may take longer to load the model, so that later predictions of a few rows are
    faster. Raises `ModelError` if a file is missing, wrong or too large. The error is also raised if the model cannot
    predict the power of an idle machine (all features 0) or of a fully loaded machine (each feature at its scale).
    """
    files, where = (source, where) if isinstance(source, Mapping) else (_Folder(Path(source)), str(source))
    try:
        metadata = decode_object(_file(files, METADATA_FILE))
        layout = decode_json(_file(files, MODEL_FILE), ModelFile)
        scale = _checked_scale(layout)
        predictors = _load_predictors(layout, files, resident)
        lowest = np.full(len(scale), -np.inf) if layout.lowest is None else np.array(layout.lowest, dtype=np.float64)
        model = PowerModel(metadata, tuple(layout.features), scale, lowest, dict(layout.components), predictors)
        # A model may load and still fail when it predicts. So predict the power of an idle machine, and of a machine
        # whose features all have the largest values of the training.
        model.watts(np.vstack([np.zeros(len(scale)), scale]))
        return model
    except (ModelError, PluginError) as error:
        raise ModelError(f"{where}: {error}") from error
    except DocumentError as error:
        raise ModelError(f"{where}: damaged metadata.json or model.json: {error}") from error


def format_name(stored: str) -> str:
    """Return the full name of a model format, from its name in a stored model.

    A stored name without a distribution, e.g. `onnx`, means the format of the distribution kepler-core, even if another
    distribution has a format of the same name.
    """
    return stored if ":" in stored else f"kepler-core:{stored}"


class _Folder(Mapping[str, bytes]):
    """The files of a model's folder by name. Each file is read when it is accessed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __getitem__(self, name: str) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                return file.read(max_bytes_to_load(name) + 1)
        except OSError as error:
            raise KeyError(error.strerror) from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(entry.name for entry in self.path.iterdir()))

    def __len__(self) -> int:
        return sum(1 for _ in self.path.iterdir())


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    try:
        content = files[name]
    except KeyError:
        hint = "; not a model of Kepler Core" if name == MODEL_FILE else ""
        raise ModelError(f"no file {name}{hint}") from None
    if len(content) > (limit := max_bytes_to_load(name)):
        raise ModelError(f"{name} is larger than {limit} bytes")
    return content


def _checked_scale(layout: ModelFile) -> FloatArray:
    """Return the scales of the features, or raise `ModelError` if the layout, the features or the scales are wrong."""
    if layout.layout != LAYOUT_VERSION:
        raise ModelError(f"layout {layout.layout} of model.json; this kepler-core reads {LAYOUT_VERSION}")
    scale = np.array(layout.scale, dtype=np.float64)
    if not layout.features or len(set(layout.features)) != len(layout.features):
        raise ModelError("no feature is named, or a feature is named twice")
    if len(scale) != len(layout.features) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError("the list scale must have one number for each feature, finite and above 0")
    lowest = layout.lowest
    if lowest is not None and not (len(lowest) == len(layout.features) and np.isfinite(lowest).all()):
        raise ModelError("the list lowest must have one finite number for each feature")
    return scale


def _load_predictors(layout: ModelFile, files: Mapping[str, bytes], resident: bool) -> list[ComponentPredictor]:
    if not layout.components:
        raise ModelError("no component")
    by_format: dict[str, dict[str, Predictor]] = {}
    for component, part in layout.components.items():
        _check_part(component, part, layout.features)
        if part.constant is None:
            assert part.format is not None
            assert part.file is not None
            model_format = registry.model_formats.create(format_name(part.format))
            load = model_format.load_resident if resident else model_format.load
            by_format.setdefault(part.format, {})[component] = load(_file(files, part.file), layout.features)
    predictors: list[ComponentPredictor] = []
    for name, by_component in by_format.items():
        joint = None
        if resident and len(by_component) > 1:
            joint = registry.model_formats.create(format_name(name)).join(list(by_component.values()))
        if joint is not None:
            predictors.append(ComponentPredictor(tuple(by_component), joint))
        else:
            predictors += [ComponentPredictor((component,), one) for component, one in by_component.items()]
    return predictors


def _check_part(component: str, part: ComponentPart, features: Sequence[str]) -> None:
    if component not in COMPONENTS:
        raise ModelError(f"unknown component {component!r}; {close_matches(component, COMPONENTS)}")
    if not (np.isfinite(part.ceiling) and part.ceiling >= 0):
        raise ModelError(f"{component}: the ceiling must be finite and not negative")
    if not (np.isfinite(part.gain) and part.gain > 0 and np.isfinite(part.shift)):
        raise ModelError(f"{component}: gain must be finite and above 0, and shift must be finite")
    if part.proportional_to not in (None, PROPORTIONAL_FEATURES.get(component)):
        raise ModelError(f"{component}: the power is not proportional to {part.proportional_to!r}")
    if part.proportional_to is not None and part.proportional_to not in features:
        raise ModelError(f"{component}: {part.proportional_to!r} is not one of the model's features")
    if part.constant is not None:
        if not 0 <= part.constant <= part.ceiling:
            raise ModelError(f"{component}: the constant power must be between 0 W and its upper limit, the ceiling")
    elif part.format is None or part.file is None:
        raise ModelError(f"{component}: it has neither a constant power nor a file in a model format")
    elif part.file != Path(part.file).name or part.file in ("", ".", ".."):
        raise ModelError(f"{component}: {part.file!r} is not a file name")
