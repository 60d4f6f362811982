"""The report of a training."""

from __future__ import annotations

from typing import Any

import attrs

from kepler_core.pipeline.fit import FitResult
from kepler_core.store.layout import model_path


@attrs.define
class Report:
    """What a training published, what failed and what was skipped; `as_dict` is what `train --json` prints."""

    pipeline: str
    store: str
    version: int | None = None
    models: list[dict[str, Any]] = attrs.field(factory=list)
    failed: list[dict[str, Any]] = attrs.field(factory=list)
    skipped: list[dict[str, Any]] = attrs.field(factory=list)
    notes: list[dict[str, Any]] = attrs.field(factory=list)
    """Notes of isolators on data sets."""
    node_type: int = 0
    seconds: dict[str, float] = attrs.field(factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return attrs.asdict(self)


def described(result: FitResult) -> dict[str, Any]:
    """Return the report's entry for a fit: the model with its errors, or the reason why there is none."""
    if result.files is None:
        return {**result.key, "reason": result.reason}
    metadata = result.metadata
    components = metadata["validation"]["components"]
    return {
        **result.key,
        "model_name": metadata["model_name"],
        "node_type": metadata["node_type"],
        "path": model_path(metadata),
        "mae": metadata["mae"],
        "mape": metadata["mape"],
        "components": {
            component: {k: v for k, v in scores.items() if k not in ("constant_mae", "line_mae")}
            for component, scores in components.items()
        },
        "baselines": {
            component: {"constant_mae": scores["constant_mae"], "line_mae": scores["line_mae"]}
            for component, scores in components.items()
        },
    }
