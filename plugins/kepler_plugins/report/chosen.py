"""The models that the report describes in detail: the best model for each pair of energy source and output type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import BoolArray, FloatArray
from kepler_core.honesty.document import SPLIT_NAMES, Honesty, SplitName, read_honesty
from kepler_core.honesty.interval import SAME_MACHINE, half_widths, typical_half_width
from kepler_core.pipeline.evidence import Evidence
from kepler_core.plots.recorded import NO_POWER_WATTS

MAX_CHOSEN = 6
"""Maximum number of models that the report describes in detail. A training may have many energy sources."""

SPLIT_WORDS: dict[SplitName, str] = {
    "blocks": "Blocks of time",
    "regimes": "Other kinds of work",
    "recordings": "Another recording",
    "nodes": "Another node",
}
"""Names of the splits, as the report shows them."""


@attrs.frozen(eq=False)
class Chosen:
    """A model that the report describes in detail."""

    evidence: Evidence
    honesty: Honesty

    @property
    def path(self) -> str:
        """The path of the model in the pipeline."""
        keys = ("source", "output_type", "feature_group", "model_name")
        return "/".join(str(self.evidence.metadata[key]) for key in keys)

    @property
    def components(self) -> list[str]:
        """The components, in descending order of measured power.

        Components without power are left out, unless none has power: on many machines, core and uncore are 0 W.
        """
        highest = {name: float(self.evidence.measured[name].max()) for name in self.evidence.metadata["components"]}
        ordered = sorted(highest, key=lambda name: -highest[name])
        return [name for name in ordered if highest[name] > NO_POWER_WATTS] or ordered

    def predicted(self, component: str) -> FloatArray:
        """Return the predictions for held-out blocks of time in watts, shape (samples,)."""
        return self.evidence.held_out["blocks"][component]

    def tested(self, component: str) -> BoolArray:
        """Return which samples have a prediction, shape (samples,)."""
        return np.isfinite(self.predicted(component))

    def half_width(self, component: str) -> FloatArray | None:
        """Return the half-width of each prediction's interval in watts, shape (samples,).

        Return None if the model has no intervals for the component.
        """
        if component not in self.honesty.intervals:
            return None
        watts = self.predicted(component)
        known = np.where(np.isfinite(watts), watts, 0.0)
        inside = np.zeros(len(watts), dtype=bool)
        return half_widths(self.honesty, {component: known}, inside, SAME_MACHINE)[component]

    def coverage(self, component: str) -> float | None:
        """Return the fraction of the measured values of held-out blocks that is in the intervals.

        Return None if the model has no intervals or no predictions for this component.
        """
        half, tested = self.half_width(component), self.tested(component)
        if half is None or not tested.any():
            return None
        error = np.abs(self.predicted(component) - self.evidence.measured[component])
        return float(np.mean(error[tested] <= half[tested]))

    def split_rows(self) -> list[dict[str, Any]]:
        """Return a table row for each split and component with the errors in watts.

        A split that was not measured has a single row whose value `parts` is None.
        """
        rows: list[dict[str, Any]] = []
        for name in SPLIT_NAMES:
            errors = self.honesty.splits.get(name)
            if errors is None:
                rows.append({"split": SPLIT_WORDS[name], "parts": None})
                continue
            for component in self.components:
                of_component = errors.components[component]
                rows.append(
                    {
                        "split": SPLIT_WORDS[name],
                        "parts": errors.parts,
                        "component": component,
                        "mae": of_component.mae,
                        "mape": of_component.mape,
                        "bias": of_component.bias,
                        "idle_bias": of_component.idle_bias,
                        "worst": errors.worst,
                        "decides": name == self.honesty.hardest,
                    }
                )
        return rows

    def interval_rows(self) -> list[dict[str, Any]]:
        """Return a table row for each component with an interval: half-width, coverage and error terms."""
        return [
            {
                "component": component,
                "half_width": typical_half_width(terms),
                "coverage": self.coverage(component),
                "session": terms.session,
                "session_measured": terms.session_measured,
                "machine": 100 * terms.machine_loaded,
                "machine_measured": terms.machine_measured,
                "noise": terms.noise,
                "lowest": terms.lowest,
                "highest": terms.highest,
            }
            for component in self.components
            if (terms := self.honesty.intervals.get(component)) is not None
        ]


def chosen_models(evidence: Sequence[Evidence]) -> list[Chosen]:
    """Return the best model for each pair of energy source and output type.

    The best model is the model with the lowest error on its hardest split (kind of held-out data). At most
    `MAX_CHOSEN` models are returned. AbsPower models come first.
    """
    best: dict[tuple[str, str], tuple[float, Chosen]] = {}
    for one in evidence:
        honesty = read_honesty(one.metadata)
        assert honesty is not None  # every training writes the block `honesty` into the metadata
        error = honesty.hardest_errors.hardest
        key = (str(one.metadata["output_type"]), str(one.metadata["source"]))
        if key not in best or error < best[key][0]:
            best[key] = error, Chosen(one, honesty)
    return [best[key][1] for key in sorted(best)][:MAX_CHOSEN]
