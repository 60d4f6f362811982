"""Recalibrate a stored model after a power shift: correct the predicted watts with a gain and a shift."""

from __future__ import annotations

from collections.abc import Mapping

import attrs
import msgspec
import numpy as np

from kepler_core.documents import DocumentError, decode_json, decode_object
from kepler_core.errors import ModelError
from kepler_core.honesty.document import HONESTY_KEY, Honesty, IntervalTerms, Twin, read_honesty
from kepler_core.json_files import indented_json
from kepler_core.models.kepler_weights import KEPLER_CURVES, NO_WEIGHTS_KEY, refusal
from kepler_core.models.power_model import (
    HELD_OUT_FILE,
    METADATA_FILE,
    MODEL_FILE,
    WEIGHT_FILE,
    ComponentPart,
    ModelFile,
    PowerModel,
)


@attrs.frozen
class Correction:
    """A correction of predictions: corrected watts = gain · predicted watts + shift (watts)."""

    gain: float
    shift: float = 0.0


UNCORRECTED = Correction(1.0)
"""The correction that changes nothing."""


def recalibrated(files: Mapping[str, bytes], corrections: Mapping[str, Correction]) -> dict[str, bytes]:
    """Correct the predictions of a model of any format, and return the changed model's files by name.

    `files` are the model's files by name. `corrections` maps components to corrections. The weights for Kepler are
    corrected too. They are left out if Kepler could no longer evaluate them safely, e.g. because they give less than 0
    W at idle. Then `metadata.json` has the reason under `no_weights`. `metadata.json` lists the corrections under
    `recalibration`. The intervals and the limits of the twin are corrected like the predictions. The
    errors in `metadata.json` do not change, so they still describe the uncorrected predictions. Raises `ModelError` if
    the files are not a model, or a gain is not above 0.
    """
    for component, correction in corrections.items():
        if not correction.gain > 0:
            raise ModelError(f"{component}: a gain of {correction.gain:g} is not above 0")
    try:
        layout = decode_json(files[MODEL_FILE], ModelFile)
        metadata = decode_object(files[METADATA_FILE])
    except (KeyError, DocumentError) as error:
        raise ModelError(f"not a model: {error}") from error
    layout.components = {
        component: _corrected_part(part, corrections[component]) if component in corrections else part
        for component, part in layout.components.items()
    }
    metadata["recalibration"] = metadata.get("recalibration", {}) | {
        component: {"gain": layout.components[component].gain, "shift": layout.components[component].shift}
        for component in corrections
        if component in layout.components
    }
    if (honesty := read_honesty(metadata)) is not None:
        metadata[HONESTY_KEY] = msgspec.to_builtins(_corrected_honesty(honesty, corrections))
    # leave out the file of held-out samples: it has predictions of the uncorrected model
    changed = {name: content for name, content in files.items() if name != HELD_OUT_FILE}
    if WEIGHT_FILE in changed:
        trainer = str(metadata.get("trainer", ""))
        weights = _corrected_weights(changed.pop(WEIGHT_FILE), trainer, corrections)
        if (reason := refusal(weights, trainer, layout.features)) is None:
            changed[WEIGHT_FILE] = weights
        else:
            metadata[NO_WEIGHTS_KEY] = reason
    return {**changed, MODEL_FILE: indented_json(layout), METADATA_FILE: indented_json(metadata)}


def corrected_model(model: PowerModel, corrections: Mapping[str, Correction]) -> PowerModel:
    """Return a loaded model with corrected predictions. `corrections` maps components of the model to corrections."""
    parts = {name: _corrected_part(part, corrections.get(name, UNCORRECTED)) for name, part in model.parts.items()}
    return attrs.evolve(model, parts=parts)


def idle_corrections(model: PowerModel, idle_watts: Mapping[str, float]) -> dict[str, Correction]:
    """Return the corrections with which a model predicts `idle_watts` at the lowest load of its training.

    `idle_watts` has the watts by component. The model's predictions shift by the same watts at every load. At the
    lowest load, each feature has its lowest value in the training or, if this value is not known, 0. Components that
    the model lacks are left out.
    """
    lowest = np.where(np.isfinite(model.lowest), model.lowest, 0.0)
    predicted = model.predict(lowest[np.newaxis])
    return {
        component: Correction(1.0, watts - float(predicted[component][0]))
        for component, watts in idle_watts.items()
        if component in predicted
    }


def widened(twin: Twin, own: Mapping[str, Correction], other: Mapping[str, Correction]) -> Twin:
    """Return a model's description of its twin, with limits that fit the corrected predictions.

    `own` are the corrections of the model, `other` those of the twin, by component. All of them have the gain 1.

    If the two models shift by different watts, each difference between their predictions may grow by the difference of
    the shifts. The limits grow by the same watts, so that the corrections alone never cause a disagreement.
    """
    limits = {
        component: limit + abs(own.get(component, UNCORRECTED).shift - other.get(component, UNCORRECTED).shift)
        for component, limit in twin.limits.items()
    }
    return Twin(twin.model_name, twin.feature_group, limits)


def _corrected_part(part: ComponentPart, correction: Correction) -> ComponentPart:
    ceiling = max(part.ceiling * correction.gain + correction.shift, 0.0)
    gain, shift = part.gain * correction.gain, correction.gain * part.shift + correction.shift
    if part.constant is None:
        return msgspec.structs.replace(part, ceiling=ceiling, gain=gain, shift=shift)
    constant = max(correction.gain * part.constant + correction.shift, 0.0)
    return msgspec.structs.replace(part, ceiling=ceiling, constant=constant)


def _corrected_honesty(honesty: Honesty, corrections: Mapping[str, Correction]) -> Honesty:
    """Return the block `honesty` of a corrected model: its errors and intervals, and the limits of its twin.

    A gain multiplies all watts, and so it multiplies the errors, too. A shift changes no error. It changes only the
    power at which the bins of an interval begin and end.
    """

    def corrected(terms: IntervalTerms, by: Correction) -> IntervalTerms:
        def moved(watts: float) -> float:
            return max(by.gain * watts + by.shift, 0.0)

        return msgspec.structs.replace(
            terms,
            lowest=moved(terms.lowest),
            highest=moved(terms.highest),
            edges=[moved(edge) for edge in terms.edges],
            quantiles=[by.gain * quantile for quantile in terms.quantiles],
            session=by.gain * terms.session,
            noise=by.gain * terms.noise,
        )

    twin = honesty.twin
    if twin is not None:
        limits = {name: limit * corrections.get(name, UNCORRECTED).gain for name, limit in twin.limits.items()}
        twin = msgspec.structs.replace(twin, limits=limits)
    intervals = {
        name: corrected(terms, corrections.get(name, UNCORRECTED)) for name, terms in honesty.intervals.items()
    }
    return msgspec.structs.replace(honesty, intervals=intervals, twin=twin)


def _corrected_weights(content: bytes, trainer: str, corrections: Mapping[str, Correction]) -> bytes:
    document = decode_object(content)
    for component, correction in corrections.items():
        if component not in document:
            continue
        weights = document[component]["All_Weights"]
        curve = weights.get("CurveFit_Weights")
        if curve is not None and trainer in KEPLER_CURVES:
            # in each formula for a curve, the first weight is the height of the curve and the last weight its offset
            weights["CurveFit_Weights"] = [
                correction.gain * curve[0], *curve[1:-1], correction.gain * curve[-1] + correction.shift
            ]  # fmt: skip
            continue
        for variable in weights["Numerical_Variables"].values():
            variable["weight"] *= correction.gain
        weights["Bias_Weight"] = correction.gain * weights["Bias_Weight"] + correction.shift
    return indented_json(document)
