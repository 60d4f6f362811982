"""The explanation of a reply: the model, the intervals of the watts, and the reasons to doubt the watts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import numpy as np

from kepler_core.arrays import FloatArray
from kepler_core.honesty.flags import flags
from kepler_core.honesty.interval import half_widths
from kepler_core.models.twins import CheckedWatts
from kepler_servers.estimator.loaded_model import LoadedModel

DECIMALS = 3
"""Number of decimals of the intervals' half-widths, which are in watts."""
MAX_KEPT_ROWS = 100
"""Maximum number of rows of the latest answer that stay in memory for each model key. The status reports the mean
half-width of their intervals. Kepler's requests for the power of a node have one or two rows."""

_SIMILARITIES = ("match", "number", "similarity", "looseness", "uncertainty")


def explain(loaded: LoadedModel, checked: CheckedWatts, host_name: str) -> dict[str, Any]:
    """Return the value of the key `explanation` in a reply. `host_name` is the name of this machine."""
    honesty, why = loaded.check.honesty, loaded.offer.why
    outside, disagrees = np.flatnonzero(checked.outside), np.flatnonzero(checked.disagrees)
    raised = flags(honesty, loaded.match(host_name), outside=len(outside) > 0, disagrees=len(disagrees) > 0)
    node_type = why.get("node_type")
    node_type = node_type if isinstance(node_type, Mapping) else {}
    return {
        "model": loaded.offer.name,
        "pipeline": why.get("pipeline"),
        "trainer": loaded.model.metadata.get("trainer") or why.get("trainer"),
        "node_type": {key: node_type[key] for key in _SIMILARITIES if key in node_type},
        "level": None if honesty is None else honesty.level,
        "half_width": {
            component: np.round(width, DECIMALS).tolist()
            for component, width in half_widths_of(loaded, checked, host_name).items()
        },
        "flags": raised,
        "rows_outside": outside.tolist(),
        "rows_disagreeing": disagrees.tolist(),
        "twin": loaded.check.twin_name or None,
        "problem": loaded.problem,
    }


def mean_half_widths(loaded: LoadedModel, latest: CheckedWatts, host_name: str) -> dict[str, float]:
    """Return the mean half-width of each component's intervals over the rows of the answer `latest`, in watts."""
    widths = half_widths_of(loaded, latest, host_name) if len(latest.outside) else {}
    return {component: round(float(width.mean()), DECIMALS) for component, width in widths.items()}


def half_widths_of(loaded: LoadedModel, checked: CheckedWatts, host_name: str) -> dict[str, FloatArray]:
    """Return the half-width of each row's interval in watts, for each component.

    The result is empty if there are no intervals.
    """
    if loaded.check.honesty is None:
        return {}
    components = loaded.model.components
    difference = checked.difference
    return half_widths(
        loaded.check.honesty,
        dict(zip(components, checked.watts, strict=True)),
        checked.outside,
        loaded.match(host_name),
        None if difference is None else dict(zip(components, difference, strict=True)),
    )


def kept(checked: CheckedWatts) -> CheckedWatts:
    """Return the first `MAX_KEPT_ROWS` rows of an answer. The model cache stores them for `mean_half_widths`."""
    if len(checked.outside) <= MAX_KEPT_ROWS:
        return checked
    difference = checked.difference
    return attrs.evolve(
        checked,
        # The slices are copied, so that the arrays with all rows can be freed.
        watts=checked.watts[:, :MAX_KEPT_ROWS].copy(),
        outside=checked.outside[:MAX_KEPT_ROWS].copy(),
        disagrees=checked.disagrees[:MAX_KEPT_ROWS].copy(),
        difference=None if difference is None else difference[:, :MAX_KEPT_ROWS].copy(),
    )
