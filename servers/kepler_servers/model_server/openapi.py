"""The description of the endpoints (`GET /openapi.json`)."""

from __future__ import annotations

from typing import Any

import msgspec

from kepler_core.vocabulary import OUTPUT_TYPES
from kepler_servers.http.openapi import NUMBER, TEXT, described, error_schema, errors, get, metrics, parameter
from kepler_servers.model_request import ModelRequestBody


def document(model_path: str) -> dict[str, Any]:
    """The OpenAPI document; `model_path` is where models are asked for."""
    (body,), schemas = msgspec.json.schema_components([ModelRequestBody], ref_template="#/components/schemas/{name}")
    # the decoder takes any text, to answer with the close matches
    schemas["ModelRequestBody"]["properties"]["output_type"] = {"enum": list(OUTPUT_TYPES)}
    return described(
        "Kepler Core model server",
        "Gives the power model that fits a machine best, and says why.",
        {
            model_path: {"post": _ask(body)},
            "/best-models": {
                "get": get(
                    "The model with the lowest error per output type and feature group.",
                    {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": TEXT}},
                    _filters(),
                )
            },
            "/models": {
                "get": get(
                    "The models that are served, lowest error first.",
                    {
                        "type": "object",
                        "required": ["total", "models"],
                        "properties": {
                            "total": NUMBER,
                            "models": {"type": "array", "items": {"$ref": "#/components/schemas/StoredModel"}},
                        },
                    },
                    [
                        parameter("pipeline", TEXT),
                        parameter("trainer", TEXT),
                        *_filters(),
                        parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
                        parameter("offset", {"type": "integer", "minimum": 0, "maximum": 10**9}),
                    ],
                )
            },
            "/models/{pipeline}/{source}/{output_type}/{feature_group}/{name}": {
                "get": {
                    "summary": "A model's metadata; with .json at the end its weights, with .zip its archive.",
                    "parameters": [
                        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
                        for name in ("pipeline", "source", "output_type", "feature_group", "name")
                    ],
                    "responses": {
                        "200": {
                            "description": "The model.",
                            "content": {
                                "application/json": {"schema": {"type": "object"}},
                                "application/zip": {"schema": {}},
                            },
                        },
                        **errors(404, 503),
                    },
                }
            },
            "/node-types": {"get": get("The kinds of machines of each pipeline.", {"type": "object"})},
            "/metrics": metrics("weights and errors of the models, requests and latencies"),
            "/healthz": {"get": get("What is served and what is broken.", {"$ref": "#/components/schemas/Health"})},
            "/readyz": {
                "get": get(
                    "Whether the store has been read.",
                    {"$ref": "#/components/schemas/Health"},
                    more={
                        "503": {
                            "description": "Not yet.",
                            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}},
                        }
                    },
                )
            },
            "/openapi.json": {"get": get("This document.", {"type": "object"})},
        },
        {**schemas, **_SCHEMAS},
    )


_SCHEMAS: dict[str, Any] = {
    "Error": error_schema(
        selection={"type": "object", "description": "What was considered and why it was dropped."},
    ),
    "Selection": {
        "type": "object",
        "description": "Why this model.",
        "required": ["pipeline", "model", "trainer", "features", "error", "node_type", "candidates"],
        "properties": {
            "pipeline": TEXT,
            "version": {"type": ["integer", "null"]},
            "model": TEXT,
            "trainer": TEXT,
            "features": {"type": "array", "items": TEXT},
            "error": {"type": "object"},
            "node_type": {
                "type": "object",
                "required": ["match", "number", "machine_spec"],
                "properties": {
                    "match": {"enum": ["given", "exact", "nearest", "unknown", "any"]},
                    "number": NUMBER,
                    "machine_spec": {"type": "object"},
                    "similarity": {"type": "number", "minimum": 0, "maximum": 1},
                    "looseness": {"type": "number"},
                    "uncertainty": {"type": "number"},
                    "attributes": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
                },
            },
            "candidates": {
                "type": "object",
                "required": ["considered", "dropped"],
                "properties": {
                    "considered": NUMBER,
                    "dropped": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["by", "count", "why"],
                            "properties": {"by": TEXT, "count": NUMBER, "why": TEXT},
                        },
                    },
                },
            },
            "runner_up": {"type": "object"},
        },
    },
    "Weights": {
        "type": "object",
        "description": "Weights per component as Kepler evaluates them; with explain=1 only the selection.",
        "required": ["selection"],
        "properties": {
            "model_name": TEXT,
            "machine_spec": {"type": "object"},
            "selection": {"$ref": "#/components/schemas/Selection"},
        },
    },
    "StoredModel": {
        "type": "object",
        "required": ["pipeline", "path", "model_name", "source", "output_type", "feature_group", "trainer", "features"],
        "properties": {
            "pipeline": TEXT,
            "version": {"type": ["integer", "null"]},
            "path": TEXT,
            "model_name": TEXT,
            "source": TEXT,
            "output_type": {"enum": list(OUTPUT_TYPES)},
            "feature_group": TEXT,
            "trainer": TEXT,
            "node_type": NUMBER,
            "features": {"type": "array", "items": TEXT},
            "portable": {"type": "boolean"},
            "weights": {"type": "boolean"},
            "no_weights": {"type": ["string", "null"]},
            "errors": {"type": "object"},
        },
    },
    "Health": {
        "type": "object",
        "required": ["status", "models", "pipelines", "broken"],
        "properties": {
            "status": {"enum": ["ok", "degraded"]},
            "version": TEXT,
            "store": TEXT,
            "store_problem": {"type": ["string", "null"]},
            "models": NUMBER,
            "pipelines": {"type": "object"},
            "broken": {"type": "object", "additionalProperties": TEXT},
        },
    },
}


def _ask(body: Any) -> dict[str, Any]:
    return {
        "summary": "The model that fits best: weights as JSON, or the model as a zip.",
        "parameters": [parameter("explain", {"enum": ["0", "1", "true", "false"]})],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {
                "description": "The model.",
                "headers": {
                    "X-Kepler-Model": {"schema": TEXT, "description": "Pipeline and path of the model."},
                    "X-Kepler-Selection": {"schema": TEXT, "description": "For a zip: the selection as JSON."},
                },
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Weights"}},
                    "application/zip": {"schema": {}},
                },
            },
            **errors(400, 404, 408, 413, 503),
        },
    }


def _filters() -> list[dict[str, Any]]:
    return [
        parameter("energy-source", TEXT),
        parameter("output-type", {"enum": list(OUTPUT_TYPES)}),
        parameter("feature-group", TEXT),
        parameter("node-type", {"type": "integer", "minimum": 0, "maximum": 2**31}),
        parameter("filter", {**TEXT, "example": "mae:5;package_mape:10"}),
    ]
