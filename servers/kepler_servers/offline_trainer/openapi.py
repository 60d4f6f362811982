"""The description of the endpoints (`GET /openapi.json`)."""

from __future__ import annotations

from typing import Any

import msgspec

from kepler_core.pipeline.spec import json_schema
from kepler_core.vocabulary import OUTPUT_TYPES
from kepler_servers.http.openapi import NUMBER, TEXT, described, error_schema, errors, get, metrics, parameter
from kepler_servers.offline_trainer.jobs import STATES
from kepler_servers.offline_trainer.request import SimpleRequest, TrainerSection

_SCHEMAS = "#/components/schemas/"


def document() -> dict[str, Any]:
    """The OpenAPI document."""
    return described(
        "Kepler Core offline trainer",
        "Trains power models from recordings, as jobs that survive, and publishes them into a model store.",
        {
            "/train": {"post": _train()},
            "/jobs": {
                "get": get(
                    "The jobs, the newest first.",
                    {
                        "type": "object",
                        "required": ["total", "jobs"],
                        "properties": {"total": NUMBER, "jobs": {"type": "array", "items": _ref("Job")}},
                    },
                    [
                        parameter("state", {"enum": list(STATES)}),
                        parameter("limit", {"type": "integer", "minimum": 1, "maximum": 1000}),
                        parameter("offset", {"type": "integer", "minimum": 0, "maximum": 10**9}),
                    ],
                    more=errors(401),
                )
            },
            "/jobs/{job}": {
                "parameters": [_JOB],
                "get": get("A job and all that happened to it.", _ref("JobDetails"), more=errors(401, 404)),
                "delete": {
                    "summary": "Cancel a job.",
                    "responses": {
                        "200": {
                            "description": "It is cancelled.",
                            "content": {"application/json": {"schema": _ref("Job")}},
                        },
                        **errors(401, 404, 409),
                    },
                },
            },
            "/jobs/{job}/result": {
                "parameters": [_JOB],
                "get": {
                    "summary": "The trained pipeline; of a job that failed, the answer that says why.",
                    "responses": {"200": _ZIP, **errors(400, 401, 404, 409, 410, 422, 500, 503, 507)},
                },
            },
            "/metrics": metrics("jobs, requests and latencies"),
            "/healthz": {"get": get("How many jobs there are.", _ref("Health"))},
            "/readyz": {
                "get": get(
                    "Whether requests are taken.",
                    _ref("Health"),
                    more={
                        "503": {
                            "description": "No longer.",
                            "content": {"application/json": {"schema": _ref("Health")}},
                        }
                    },
                )
            },
            "/openapi.json": {"get": get("This document.", {"type": "object"})},
        },
        {**_request_schemas(), **_answer_schemas()},
    )


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _SCHEMAS + name}


_JOB = {"name": "job", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
_ZIP = {
    "description": "The trained pipeline.",
    "headers": {
        "X-Kepler-Job": {"schema": TEXT, "description": "The job's id."},
        "X-Kepler-Pipeline": {"schema": TEXT, "description": "Name and version of the pipeline in the store."},
    },
    "content": {"application/zip": {"schema": {}}},
}


def _train() -> dict[str, Any]:
    return {
        "summary": "Train a pipeline: the answer is its zip when it is done, or at once the job that does it.",
        "parameters": [
            parameter("async", {"enum": ["0", "1", "true", "false"]}),
            {"name": "Prefer", "in": "header", "schema": {**TEXT, "example": "respond-async"}},
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
                "description": "A repeated request with the same key is the same job.",
            },
        ],
        "requestBody": {
            "required": True,
            "description": "Plain or gzipped.",
            "content": {"application/json": {"schema": {"oneOf": [_ref("SimpleRequest"), _ref("PipelineRequest")]}}},
        },
        "responses": {
            "200": _ZIP,
            "202": {
                "description": "It is queued.",
                "headers": {"Location": {"schema": TEXT, "description": "The job's URL."}},
                "content": {"application/json": {"schema": _ref("Job")}},
            },
            **errors(400, 401, 408, 410, 413, 415, 422, 500, 503, 507),
        },
    }


def _request_schemas() -> dict[str, Any]:
    """The request's classes, and the pipeline's as its own JSON Schema has them."""
    pipeline = json_schema()
    schemas: dict[str, Any] = {**pipeline["$defs"]}
    _, found = msgspec.json.schema_components([SimpleRequest, TrainerSection], ref_template=_SCHEMAS + "{name}")
    for name in ("SimpleRequest", "TrainerSection"):
        schemas[name] = {**found[name], "additionalProperties": False}
    schemas["PipelineSpec"]["required"] = ["name"]
    # the data of a request
    recording = {
        "type": "object",
        "description": "Prometheus range-query results by metric name.",
        "additionalProperties": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["metric", "values"],
                "properties": {
                    "metric": {"type": "object", "additionalProperties": TEXT},
                    "values": {
                        "type": "array",
                        "items": {
                            "type": "array",
                            "prefixItems": [{"type": "number", "minimum": 0}, TEXT],
                            "minItems": 2,
                            "maxItems": 2,
                        },
                    },
                },
            },
        },
    }
    schemas["Recording"] = recording
    schemas["PipelineRequest"] = {
        "type": "object",
        "required": ["pipeline"],
        "properties": {"pipeline": _ref("PipelineSpec"), "machine_spec": {"type": ["object", "null"]}},
        "additionalProperties": False,
    }
    for name in ("SimpleRequest", "PipelineRequest"):
        for key in ("prome_response", "prom_response", "idle_prom_response"):
            schemas[name]["properties"][key] = _ref("Recording")
        schemas[name]["oneOf"] = [{"required": ["prom_response"]}, {"required": ["prome_response"]}]
    schemas["TrainerSection"]["properties"]["idle_prom_response"] = _ref("Recording")
    schemas_here: dict[str, Any] = _with_refs(schemas)
    return schemas_here


def _with_refs(schema: Any) -> Any:
    """The same with references into the document's schemas."""
    if isinstance(schema, dict):
        return {
            key: value.replace("#/$defs/", _SCHEMAS) if key == "$ref" else _with_refs(value)
            for key, value in schema.items()
        }
    return [_with_refs(item) for item in schema] if isinstance(schema, list) else schema


def _answer_schemas() -> dict[str, Any]:
    moment = {"type": ["string", "null"], "format": "date-time"}
    job = {
        "id": TEXT,
        "url": TEXT,
        "pipeline": TEXT,
        "state": {"enum": list(STATES)},
        "stage": {"type": ["string", "null"]},
        "submitted": moment,
        "started": moment,
        "finished": moment,
        "attempts": NUMBER,
        "progress": {
            "type": "object",
            "required": ["models", "trained", "failed"],
            "properties": {"models": {"type": ["integer", "null"]}, "trained": NUMBER, "failed": NUMBER},
        },
        "version": {"type": ["integer", "null"]},
        "result": {"type": ["string", "null"]},
        "error": {"type": ["object", "null"]},
    }
    model = {
        "type": "object",
        "required": ["source", "output_type", "feature_group", "trainer"],
        "properties": {"output_type": {"enum": list(OUTPUT_TYPES)}, "reason": TEXT},
    }
    details = {
        **job,
        "stages": {"type": "array", "items": {"type": "object", "properties": {"stage": TEXT, "started": moment}}},
        "models": {"type": "array", "items": model},
        "log": {
            "type": "array",
            "items": {"type": "object", "properties": {"time": moment, "level": TEXT, "text": TEXT}},
        },
        "report": {"type": ["object", "null"]},
    }
    return {
        "Error": error_schema(
            job=TEXT,
            findings={"type": "object", "description": "What `kepler-model validate` says of the recording."},
        ),
        "Job": {"type": "object", "required": list(job), "properties": job},
        "JobDetails": {"type": "object", "required": list(details), "properties": details},
        "Health": {
            "type": "object",
            "required": ["status", "jobs"],
            "properties": {
                "status": {"enum": ["ok", "stopping"]},
                "version": TEXT,
                "store": TEXT,
                "jobs": {"type": "object", "additionalProperties": NUMBER},
            },
        },
    }
