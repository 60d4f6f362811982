"""The JSON Schema of training requests, generated from the classes in the module `request`."""

from __future__ import annotations

from typing import Any

import msgspec

from kepler_core.pipeline.spec import json_schema
from kepler_servers.http.route import JsonSchema
from kepler_servers.http.text_values import FlagText
from kepler_servers.offline_trainer.request import (
    IDLE_KEY,
    OLD_RECORDING_KEY,
    RECORDING_KEY,
    SimpleRequest,
    TrainerSection,
)

_COMPONENTS = "#/components/schemas/"

_RECORDING: dict[str, Any] = {
    "type": "object",
    "description": "Prometheus range-query results by metric name.",
    "additionalProperties": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["metric", "values"],
            "properties": {
                "metric": {"type": "object", "additionalProperties": {"type": "string"}},
                "values": {
                    "type": "array",
                    "items": {
                        "type": "array",
                        "prefixItems": [{"type": "number", "minimum": 0}, {"type": "string"}],
                        "minItems": 2,
                        "maxItems": 2,
                    },
                },
            },
        },
    },
}


def request_schema() -> JsonSchema:
    """Return the JSON Schema of the body of `POST /train`, which allows both request formats."""
    components: dict[str, Any] = {**json_schema()["$defs"], "Recording": _RECORDING}
    components["PipelineSpec"]["required"] = ["name"]
    _, request_components = msgspec.json.schema_components(
        [SimpleRequest, TrainerSection], ref_template=_COMPONENTS + "{name}"
    )
    for name in ("SimpleRequest", "TrainerSection"):
        components[name] = {**request_components[name], "additionalProperties": False}
    components["SimpleRequest"]["properties"]["use_vm_metrics"] = {
        "anyOf": [{"type": "boolean"}, {"type": "null"}, msgspec.json.schema(FlagText)],
        "default": False,
    }
    components["PipelineRequest"] = {
        "type": "object",
        "required": ["pipeline"],
        "properties": {"pipeline": _reference("PipelineSpec"), "machine_spec": {"type": ["object", "null"]}},
        "additionalProperties": False,
    }
    for name in ("SimpleRequest", "PipelineRequest"):
        for key in (OLD_RECORDING_KEY, RECORDING_KEY, IDLE_KEY):
            components[name]["properties"][key] = _reference("Recording")
        components[name]["oneOf"] = [{"required": [RECORDING_KEY]}, {"required": [OLD_RECORDING_KEY]}]
    components["TrainerSection"]["properties"][IDLE_KEY] = _reference("Recording")
    return JsonSchema(
        {"oneOf": [_reference("SimpleRequest"), _reference("PipelineRequest")]}, _with_component_references(components)
    )


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": _COMPONENTS + name}


def _with_component_references(schema: Any) -> Any:
    """Replace the references to `$defs` in a schema by references to the OpenAPI components."""
    if isinstance(schema, dict):
        return {
            key: value.replace("#/$defs/", _COMPONENTS) if key == "$ref" else _with_component_references(value)
            for key, value in schema.items()
        }
    return [_with_component_references(item) for item in schema] if isinstance(schema, list) else schema
