"""The comparison of two profiles."""

from __future__ import annotations

from typing import Any

from kepler_profiler.profile.document import NodeProfile
from kepler_profiler.similarity import compare


def compare_profiles(one: NodeProfile, other: NodeProfile) -> dict[str, Any]:
    """Return the JSON document of `profile compare --json`.

    Keys with `_a` are for values of `one`, keys with `_b` for values of `other`. A value is None if its profile
    does not contain the value.
    """
    power = []
    keys = [(s, c) for profile in (one, other) for s, components in profile.power.items() for c in components]
    for source, component in dict.fromkeys(keys):
        a, b = (profile.power.get(source, {}).get(component) for profile in (one, other))
        power.append(
            {
                "source": source,
                "component": component,
                "idle_a": None if a is None else a.idle,
                "idle_b": None if b is None else b.idle,
                "idle_a_bound": a is not None and a.upper_bound,
                "idle_b_bound": b is not None and b.upper_bound,
                "maximum_a": None if a is None else a.maximum,
                "maximum_b": None if b is None else b.maximum,
            }
        )
    features = []
    for name in sorted({*one.features, *other.features}):
        first, second = one.features.get(name), other.features.get(name)
        features.append(
            {
                "feature": name,
                "highest_a": None if first is None else first.highest,
                "highest_b": None if second is None else second.highest,
                "ratio": second.highest / first.highest if first and second and first.highest > 0 else None,
            }
        )
    likeness = compare(one.machine_spec, other.machine_spec)
    return {
        "machine": {
            "known": bool(one.machine_spec or other.machine_spec),
            "similarity": likeness.similarity,
            "attributes": likeness.attributes,
        },
        "power": power,
        "features": features,
        "notes": [f"{side}: {note}" for side, profile in (("A", one), ("B", other)) for note in profile.notes],
    }
