"""The public contract of plugins, written down: run to write `plugin_api.json` anew after a version bump.

python tests/support/plugin_api.py
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import attrs

from kepler_core import contracts
from kepler_core.contracts import CONTRACTS, PLUGIN_API, FitTask, IsolationContext, MetricMapping, Plugin
from kepler_core.plugins import hooks

WRITTEN = Path(__file__).parents[1] / "plugins" / "plugin_api.json"


def contract() -> dict[str, Any]:
    """Everything that a plugin may rely on: classes with their attributes and methods, and the events."""
    classes = [Plugin, *CONTRACTS.values(), contracts.Regressor, contracts.Predictor]
    found: dict[str, Any] = {
        "namespaces": {namespace: plugin.__name__ for namespace, plugin in CONTRACTS.items()},
        "classes": {plugin.__name__: _described(plugin) for plugin in classes},
        "values": {
            kind.__name__: {field.name: _field(field) for field in attrs.fields(kind)}
            for kind in (FitTask, IsolationContext, MetricMapping)
        },
        "events": {name: _parameters(event) for name, event in _public(hooks.HookSpecs)},
    }
    return found


def _public(kind: type) -> list[tuple[str, Any]]:
    return sorted((name, value) for name, value in vars(kind).items() if inspect.isfunction(value) and name[0] != "_")


def _described(kind: type) -> dict[str, Any]:
    return {
        "attributes": {name: str(found) for name, found in sorted(inspect.get_annotations(kind).items())},
        "abstract": sorted(getattr(kind, "__abstractmethods__", ())),
        "methods": {name: str(inspect.signature(value)) for name, value in _public(kind)},
    }


def _field(field: Any) -> str:
    return f"{field.type}{'' if field.default is attrs.NOTHING else ' (optional)'}"


def _parameters(event: Any) -> list[str]:
    return list(inspect.signature(event).parameters)[1:]


def flat(value: Any, path: str = "") -> dict[str, str]:
    """A line per thing that can be added, taken away or changed."""
    if isinstance(value, dict):
        lines: dict[str, str] = {}
        for key, inner in value.items():
            lines |= flat(inner, f"{path}.{key}" if path else key)
        return lines or {path: ""}
    if isinstance(value, list):
        return {f"{path}.{item}": "" for item in value} or {path: ""}
    return {path: str(value)}


if __name__ == "__main__":
    WRITTEN.write_text(json.dumps({"version": list(PLUGIN_API), "contract": contract()}, indent=1) + "\n")
