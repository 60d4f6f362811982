"""Load a power model from its files.

Only model formats (`kepler_core.contracts.ModelFormat`) read component files. Nothing from a file is
ever executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.contracts import Predictor
from kepler_core.documents import DocumentError, decode_json, decode_object
from kepler_core.errors import ModelError, PluginError, close_matches
from kepler_core.models.power_model import (
    LAYOUT_VERSION,
    MAX_FILE_BYTES,
    METADATA_FILE,
    MODEL_FILE,
    ComponentPart,
    ModelFile,
    PowerModel,
)
from kepler_core.models.predictors import ComponentPredictor
from kepler_core.plugins import registry
from kepler_core.vocabulary import COMPONENTS


def load_model(source: Path | str | Mapping[str, bytes], where: str = "model", *, resident: bool = False) -> PowerModel:
    """Load a model from its folder, or from its files by name. `where` names the model in errors.

    With `resident`, model formats may take longer to load so that later predictions of a few rows are
    faster: for a process that keeps the model. Raises `ModelError` if a file is missing or wrong, or if
    the model cannot be evaluated on a row of zeros and on the row of its scales.
    """
    files, where = (source, where) if isinstance(source, Mapping) else (_Folder(Path(source)), str(source))
    try:
        metadata = decode_object(_file(files, METADATA_FILE))
        layout = decode_json(_file(files, MODEL_FILE), ModelFile)
        scale = _checked_scale(layout)
        predictors = _load_predictors(layout, files, resident)
        model = PowerModel(metadata, tuple(layout.features), scale, dict(layout.components), predictors)
        # A file may load and still fail when it is evaluated: on an idle machine, and at the training's largest values.
        model.watts(np.vstack([np.zeros(len(scale)), scale]))
        return model
    except (ModelError, PluginError) as error:
        raise ModelError(f"{where}: {error}") from error
    except DocumentError as error:
        raise ModelError(f"{where}: damaged metadata.json or model.json: {error}") from error


def format_name(stored: str) -> str:
    """Return the registry's name of a format. A name without a distribution is one of kepler-core's own
    formats, whichever other distributions also use that name."""
    return stored if ":" in stored else f"kepler-core:{stored}"


class _Folder(Mapping[str, bytes]):
    """The files of a model's folder, read when they are accessed."""

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

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(entry.name for entry in self.path.iterdir()))

    def __len__(self) -> int:
        return sum(1 for _ in self.path.iterdir())


def _file(files: Mapping[str, bytes], name: str) -> bytes:
    try:
        return files[name]
    except KeyError:
        hint = "; not a model of Kepler Core" if name == MODEL_FILE else ""
        raise ModelError(f"no file {name}{hint}") from None


def _checked_scale(layout: ModelFile) -> FloatArray:
    """Return the scale of the features; `ModelError` if layout, features or scale are wrong."""
    if layout.layout != LAYOUT_VERSION:
        raise ModelError(f"layout {layout.layout} of model.json; this kepler-core reads {LAYOUT_VERSION}")
    scale = np.array(layout.scale, dtype=np.float64)
    if not layout.features or len(set(layout.features)) != len(layout.features):
        raise ModelError("features are missing or named twice")
    if len(scale) != len(layout.features) or not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError("every feature needs one scale, finite and above 0")
    return scale


def _load_predictors(layout: ModelFile, files: Mapping[str, bytes], resident: bool) -> list[ComponentPredictor]:
    if not layout.components:
        raise ModelError("no component")
    by_format: dict[str, dict[str, Predictor]] = {}
    for component, part in layout.components.items():
        _check_part(component, part)
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


def _check_part(component: str, part: ComponentPart) -> None:
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
