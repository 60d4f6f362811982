"""The errors in a model's metadata, made true of all that is remembered.

A model that was validated on little (a machine that was idle, one kind of work) has a low error, and
would be chosen before one that was validated on much. So what is published anew states the error that
a model has on the whole memory, where that is higher than the one it was validated with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
import msgspec

from kepler_core.models.power_model import METADATA_FILE
from kepler_core.pipeline.validation import score
from kepler_servers.online_trainer.contest import Judged


def restated(
    metadata: Mapping[str, Any], files: Mapping[str, bytes], judged: Judged
) -> tuple[dict[str, Any], dict[str, bytes]] | None:
    """Metadata and files with higher errors, as on all that is remembered; None where they are not higher."""
    found = dict(metadata)
    components = dict(metadata.get("validation", {}).get("components", {}))
    higher = []
    for component, predicted in judged.predicted.items():
        scored = score(predicted, judged.measured[component], judged.load[component])
        stated = metadata.get(f"{component}_mae")
        if isinstance(stated, int | float) and scored.mae <= stated:
            continue
        figures = {name: _rounded(value) for name, value in attrs.asdict(scored).items()}
        components[component] = {**components.get(component, {}), **figures}
        found[f"{component}_mae"], found[f"{component}_mape"] = figures["mae"], figures["mape"]
        higher.append(component)
    if not higher:
        return None
    maes = [found[f"{c}_mae"] for c in judged.predicted]
    mapes = [mape for c in judged.predicted if (mape := found.get(f"{c}_mape")) is not None]
    found["mae"] = max([*maes, *([] if not isinstance(found.get("mae"), int | float) else [metadata["mae"]])])
    found["mape"] = max(mapes) if mapes else None
    found["validation"] = {**metadata.get("validation", {}), "components": components}
    found["restated"] = {"components": higher, "instants": len(judged.instants)}
    content = msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
    return found, {**files, METADATA_FILE: content}


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
