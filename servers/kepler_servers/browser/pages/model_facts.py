"""The facts about a stored model that the pages show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from kepler_core.errors import ModelError
from kepler_core.honesty.document import SPLIT_NAMES, Honesty, read_honesty
from kepler_core.honesty.flags import flags
from kepler_core.honesty.interval import SAME_MACHINE, typical_half_width
from kepler_core.store.models import StoredModel
from kepler_core.vocabulary import COMPONENTS

_MAX_LINEAGE_ROWS = 60
_MAX_LIST_ITEMS = 20


@attrs.frozen(eq=False)
class ModelFacts:
    """A stored model, its metadata, and the block `honesty` of the metadata, which states the model's errors."""

    model: StoredModel
    metadata: Mapping[str, Any]
    honesty: Honesty | None
    problem: str
    """The reason why the block `honesty` (errors and intervals) of the metadata cannot be used; empty if the block can
    be used or is missing."""

    @classmethod
    def of(cls, model: StoredModel) -> ModelFacts:
        """Read the facts about a model from its metadata."""
        metadata = model.metadata
        try:
            return cls(model, metadata, read_honesty(metadata), "")
        except ModelError as error:
            return cls(model, metadata, None, str(error))

    @property
    def parts(self) -> tuple[str, ...]:
        """The names in the URL of the model: pipeline, energy source, output type, feature group and model name."""
        model = self.model
        return model.pipeline, model.source, model.output_type, model.feature_group, model.name

    def file(self, suffix: str) -> tuple[str, ...]:
        """Return the names in the URL of a file of the model: its archive (.zip) or its weights (.json)."""
        return (*self.parts[:-1], self.model.name + suffix)

    @property
    def mae(self) -> float | None:
        """The model's mean absolute error in watts; None if it is not known."""
        return self.model.scores.get("mae")

    @property
    def split_maes(self) -> list[float | None]:
        """The errors in watts on each split (kind of held-out data), in the order of `SPLIT_NAMES`.

        An error that was never measured is None.
        """
        splits = {} if self.honesty is None else self.honesty.splits
        return [None if (errors := splits.get(name)) is None else errors.mae for name in SPLIT_NAMES]

    @property
    def half_width(self) -> float | None:
        """Typical half-width of the widest of the components' intervals, in watts; None if there are no intervals."""
        terms = [] if self.honesty is None else list(self.honesty.intervals.values())
        return max((typical_half_width(one) for one in terms), default=None)

    def split_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the errors of each split and component. A split that was never measured has one row without errors."""
        if self.honesty is None:
            return
        for name in SPLIT_NAMES:
            errors = self.honesty.splits.get(name)
            if errors is None:
                yield {"split": name, "component": None}
                continue
            for at, (component, one) in enumerate(errors.components.items()):
                yield {
                    "split": name, "component": component, "parts": errors.parts, "mae": one.mae, "mape": one.mape,
                    "bias": one.bias, "idle_bias": one.idle_bias, "worst": errors.worst if at == 0 else None,
                    "hardest": name == self.honesty.hardest,
                }  # fmt: skip

    def interval_rows(self) -> list[dict[str, Any]]:
        """Return one table row for each component, with the errors from which the component's interval is computed."""
        intervals = {} if self.honesty is None else self.honesty.intervals
        return [
            {
                "component": component, "half_width": typical_half_width(terms), "session": terms.session,
                "session_measured": terms.session_measured, "machine": 100 * terms.machine_loaded,
                "machine_measured": terms.machine_measured, "noise": terms.noise, "lowest": terms.lowest,
                "highest": terms.highest,
            }
            for component, terms in intervals.items()
        ]  # fmt: skip

    def component_rows(self) -> list[dict[str, Any]]:
        """Return the errors of each component, for models that state no errors by split.

        In the metadata, a negative error means that it is not known. In the result, it is None.
        """
        rows = []
        for component in COMPONENTS:
            mae, mape = (self.metadata.get(f"{component}_{key}") for key in ("mae", "mape"))
            if mae is not None or mape is not None:
                rows.append({"component": component, "mae": _known(mae), "mape": _known(mape)})
        return rows

    def flags(self) -> list[str]:
        """Return the names of the reasons to doubt all estimates of the model."""
        if self.honesty is None:
            return []
        return list(flags(self.honesty, SAME_MACHINE, outside=False, disagrees=False))

    def lineage_rows(self) -> list[tuple[str, str]]:
        """Return the lineage (the origin of the model) as (name, text) pairs.

        The key `lineage` of the metadata may have any JSON value.
        """
        return list(_rows(self.metadata.get("lineage"), ""))[:_MAX_LINEAGE_ROWS]

    def weight_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the weights that Kepler evaluates: one row for each component and feature, or for each curve."""
        if self.model.weights is None:
            return
        for component, weights in self.model.weights.components.items():
            bias = weights.Bias_Weight
            if isinstance(bias, float | int):
                yield {"component": component, "feature": None, "scale": None, "weight": bias}
            for feature, variable in weights.Numerical_Variables.items():
                yield {"component": component, "feature": feature, "scale": variable.scale, "weight": variable.weight}
            curve = weights.CurveFit_Weights
            if isinstance(curve, list):
                for position, value in enumerate(curve):
                    yield {"component": component, "feature": f"#{position}", "scale": None, "weight": value}


def _known(value: Any) -> Any:
    return None if isinstance(value, int | float) and value < 0 else value


def _rows(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _rows(inner, f"{name} {key}".strip())
    elif isinstance(value, list):
        more = f" … (+{len(value) - _MAX_LIST_ITEMS})" if len(value) > _MAX_LIST_ITEMS else ""
        yield name, ", ".join(map(str, value[:_MAX_LIST_ITEMS])) + more
    elif value is not None:
        yield name, str(value)
