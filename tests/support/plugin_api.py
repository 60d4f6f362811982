"""Describes the public API of plugins as data. A test compares the data with a snapshot.

If you change the version `PLUGIN_API`, update the snapshot `tests/plugins/plugin_api.json`:

    python tests/support/plugin_api.py
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from kepler_core import contracts, testing
from kepler_core.contracts import (
    CONTRACTS,
    PLUGIN_API,
    FitTask,
    IsolationContext,
    MachineMapping,
    MetricMapping,
    Plugin,
    UnusedMetric,
)
from kepler_core.dataset import Dataset
from kepler_core.frames import container_dataset, node_dataset
from kepler_core.metering import Observation, Power, Provenance, Reading
from kepler_core.models.power_model import PowerModel
from kepler_core.plugins import hooks
from kepler_core.plugins.registry import Registry
from kepler_core.recording import Observations

METER_DATA = (Observation, Reading, Power, Provenance)
"""Data classes of the values that collectors return and outputs receive."""

INTERNAL_FIELDS = ("counts", "memos")
"""Fields of public data classes that are not part of the plugins' API."""

SNAPSHOT = Path(__file__).parents[1] / "plugins" / "plugin_api.json"


def public_api() -> dict[str, Any]:
    """Return the names, types and signatures of everything that a plugin is allowed to use."""
    classes = [Plugin, *CONTRACTS.values(), contracts.Regressor, contracts.Predictor, contracts.JointPredictor]
    return {
        "namespaces": {namespace: plugin.__name__ for namespace, plugin in CONTRACTS.items()},
        "classes": {plugin.__name__: _class(plugin) for plugin in classes},
        "values": {
            kind.__name__: _fields(kind)
            for kind in (FitTask, IsolationContext, MachineMapping, MetricMapping, UnusedMetric, *METER_DATA)
        },
        "data": {kind.__name__: {**_fields(kind), **_members(kind)} for kind in (Dataset, Observations)},
        "functions": {
            "node_dataset": _signature(node_dataset),
            "container_dataset": _signature(container_dataset),
            "PowerModel.predict": _signature(PowerModel.predict),
            "Registry.get": _signature(Registry.get),
            "Registry.create": _signature(Registry.create),
            "Hooks.call": _signature(hooks.Hooks.call),
            "Hooks.hooks_of": _signature(hooks.Hooks.hooks_of),
        },
        "hooks": {name: _parameters(hook) for name, hook in _methods(hooks.HookSpecs)},
        "hookimpl": list(inspect.signature(hooks.hookimpl).parameters),
        "testing": sorted(testing.__all__),
    }


def _class(kind: type) -> dict[str, Any]:
    return {
        "attributes": {name: str(annotation) for name, annotation in sorted(inspect.get_annotations(kind).items())},
        "abstract": sorted(getattr(kind, "__abstractmethods__", ())),
        "methods": {name: _signature(method) for name, method in _methods(kind)},
    }


def _methods(kind: type) -> list[tuple[str, Any]]:
    return sorted((name, value) for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_")


def _fields(kind: type) -> dict[str, str]:
    return {
        field.name: f"{field.type}{'' if field.default is attrs.NOTHING else ' (optional)'}"
        for field in attrs.fields(kind)
        if not field.name.startswith("_") and field.name not in INTERNAL_FIELDS
    }


def _members(kind: type) -> dict[str, str]:
    """Return the public methods of a class with their signatures, and its properties with their types."""
    members = {name: _signature(method) for name, method in _methods(kind)}
    for name, value in vars(kind).items():
        function = getattr(value, "fget", None) or getattr(value, "func", None)  # property, cached_property
        if function is not None and not name.startswith("_"):
            members[name] = f"property {inspect.signature(function).return_annotation}"
    return dict(sorted(members.items()))


def _signature(function: Callable[..., Any]) -> str:
    # Array types are aliases. Their full text differs between releases of NumPy, so "ndarray" replaces it.
    return re.sub(r"numpy\.ndarray\[.*?\]\]", "ndarray", str(inspect.signature(function)))


def _parameters(hook: Any) -> list[str]:
    return list(inspect.signature(hook).parameters)[1:]


def flat(value: Any, path: str = "") -> dict[str, str]:
    """Return the API as a flat dictionary, with one key for each part that can be added, removed or changed."""
    if isinstance(value, dict):
        lines: dict[str, str] = {}
        for key, inner in value.items():
            lines |= flat(inner, f"{path}.{key}" if path else key)
        return lines or {path: ""}
    if isinstance(value, list):
        return {f"{path}.{item}": "" for item in value} or {path: ""}
    return {path: str(value)}


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps({"version": list(PLUGIN_API), "api": public_api()}, indent=1) + "\n")
