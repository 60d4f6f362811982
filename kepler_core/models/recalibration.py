"""A stored model made to follow a changed power law: each component's watts by a line, in any format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from kepler_core.errors import ModelError
from kepler_core.models.kepler_weights import KEPLER_CURVES, read_weights
from kepler_core.models.power_model import METADATA_FILE, MODEL_FILE, WEIGHT_FILE, ComponentPart, ModelFile


@attrs.frozen
class Correction:
    """watts now = gain · watts as predicted + shift."""

    gain: float
    shift: float = 0.0


def recalibrated(files: Mapping[str, bytes], corrections: Mapping[str, Correction]) -> dict[str, bytes]:
    """A model's files with some components corrected. `ModelError` for files that are no model, or a
    gain that is not above 0.

    Weights for Kepler follow; they are left out where they are not safe any more. `metadata.json` says
    what was done under `recalibration`; its errors are those of the model before.
    """
    for component, correction in corrections.items():
        if not correction.gain > 0:
            raise ModelError(f"{component}: a gain of {correction.gain:g} is not above 0")
    try:
        layout = msgspec.json.decode(files[MODEL_FILE], type=ModelFile)
        metadata = msgspec.json.decode(files[METADATA_FILE], type=dict[str, Any])
    except (KeyError, msgspec.DecodeError) as error:
        raise ModelError(f"not a model: {error}") from error
    parts = {
        component: _part(part, corrections[component]) if component in corrections else part
        for component, part in layout.components.items()
    }
    earlier = metadata.get("recalibration", {})
    metadata["recalibration"] = earlier | {
        component: {"gain": parts[component].gain, "shift": parts[component].shift}
        for component in corrections
        if component in parts
    }
    layout.components = parts
    found = {**files, MODEL_FILE: _pretty(layout), METADATA_FILE: _pretty(metadata)}
    if WEIGHT_FILE in found:
        weights = _weights(found.pop(WEIGHT_FILE), str(metadata.get("trainer", "")), corrections)
        try:
            read_weights(weights, str(metadata.get("trainer", "")), layout.features)
        except ModelError:
            pass  # e.g. below 0 W at idle now: Kepler may not evaluate them, the model itself can be used
        else:
            found[WEIGHT_FILE] = weights
    return found


def _part(part: ComponentPart, correction: Correction) -> ComponentPart:
    ceiling = max(part.ceiling, part.ceiling * correction.gain + max(correction.shift, 0.0))
    gain, shift = part.gain * correction.gain, correction.gain * part.shift + correction.shift
    if part.constant is None:
        return ComponentPart(ceiling, part.format, part.file, None, gain, shift)
    constant = max(correction.gain * part.constant + correction.shift, 0.0)
    return ComponentPart(ceiling, part.format, part.file, constant, part.gain, part.shift)


def _weights(content: bytes, trainer: str, corrections: Mapping[str, Correction]) -> bytes:
    document = msgspec.json.decode(content, type=dict[str, Any])
    for component, correction in corrections.items():
        if component not in document:
            continue
        found = document[component]["All_Weights"]
        curve = found.get("CurveFit_Weights")
        if curve is not None and trainer in KEPLER_CURVES:
            # height first and offset last, in all three formulas
            found["CurveFit_Weights"] = [
                correction.gain * curve[0], *curve[1:-1], correction.gain * curve[-1] + correction.shift
            ]  # fmt: skip
            continue
        for variable in found["Numerical_Variables"].values():
            variable["weight"] *= correction.gain
        found["Bias_Weight"] = correction.gain * found["Bias_Weight"] + correction.shift
    return _pretty(document)


def _pretty(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"
