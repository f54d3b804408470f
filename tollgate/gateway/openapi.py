"""The gateway of an agent as an OpenAPI 3.1 document."""

from importlib import metadata
from typing import Any, Final

import msgspec

from tollgate.gateway.agent import Agent
from tollgate.gateway.errors import Problem
from tollgate.gateway.hiring import Started
from tollgate.gateway.input_schema.json_schema import json_schema
from tollgate.gateway.request import PURCHASER_BYTES
from tollgate.gateway.status import Answered, Status

STATUSES: Final = ("awaiting_payment", "awaiting_input", "running", "completed", "failed")
_REFERENCE: Final = "#/components/schemas/{name}"
_PROBLEMS: Final = {
    400: "The request cannot be taken; `field_errors` says what is wrong with each field.",
    404: "There is no such job.",
    408: "The body did not come in time.",
    409: "The job is not as the request expects it.",
    413: "The body is too large.",
    429: "Too many requests from this address; `Retry-After` says when to try again.",
    503: "The broker or the payment service is away; nothing was changed.",
}
_SHA256: Final = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_EVERYWHERE: Final = (429, 503)


def document(agent: Agent) -> dict[str, Any]:
    """Return the document: every path, what it takes, and every answer it gives."""
    _, schemas = msgspec.json.schema_components(
        [Started, Status, Answered, Problem], ref_template=_REFERENCE
    )
    schemas["Status"]["properties"]["status"]["enum"] = [*STATUSES]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": agent.name,
            "version": metadata.version("tollgate"),
            "description": "An agent that can be hired, as MIP-003 defines it.",
        },
        "paths": {
            "/start_job": {"post": _start_job(agent)},
            "/status": {"get": _status()},
            "/provide_input": {"post": _provide_input()},
            "/availability": {"get": _availability(agent)},
            "/input_schema": {"get": _input_schema()},
            "/demo": {"get": _demo(agent)},
        },
        "components": {"schemas": schemas},
    }


def _operation(  # noqa: PLR0913 - one argument a part
    name: str,
    summary: str,
    answer: dict[str, Any] | None,
    problems: tuple[int, ...],
    *,
    body: dict[str, Any] | None = None,
    query: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if answer is not None:
        responses["200"] = {"description": "Done.", "content": _json(answer)}
    for status in sorted({*problems, *_EVERYWHERE}):
        responses[str(status)] = {"description": _PROBLEMS[status], "content": _json(_ref(Problem))}
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": _json(body)}
    if query is not None:
        operation["parameters"] = query
    return operation


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=kind.__name__)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _start_job(agent: Agent) -> dict[str, Any]:
    input_data = json_schema(agent.input_schema)
    if agent.is_free:
        purchaser = {
            "type": ["string", "null"], "minLength": 1, "maxLength": PURCHASER_BYTES,
            "pattern": "^[!-:<-~]*$",
        }  # fmt: skip
    else:
        purchaser = {"type": "string", "pattern": "^[0-9a-fA-F]{14,26}$"}
    required = [] if agent.is_free else ["identifier_from_purchaser"]
    if agent.input_schema.check({}):
        required.append("input_data")
    else:
        input_data = {"anyOf": [input_data, {"type": "null"}]}
    body = {
        "type": "object",
        "properties": {"identifier_from_purchaser": purchaser, "input_data": input_data},
        "required": required,
    }
    return _operation(
        "start_job", "Start a job; the same request again finds the same job.",
        _ref(Started), (400, 408, 409, 413), body=body,
    )  # fmt: skip


def _status() -> dict[str, Any]:
    query = [
        {"name": "job_id", "in": "query", "required": True, "schema": {"type": "string"}},
    ]
    return _operation("status", "Show what became of a job.", _ref(Status), (400, 404), query=query)


def _provide_input() -> dict[str, Any]:
    body = {
        "type": "object",
        "properties": {
            "job_id": {"type": "string", "format": "uuid"},
            "status_id": {
                "type": "string",
                "description": "The `id` that `/status` shows with the question.",
            },
            "input_schema_hash": {
                **_SHA256, "description": "SHA-256 of the question's canonical JSON (RFC 8785).",
            },
            "input_data": {"type": "object"},
        },
        "required": ["job_id", "input_data"],
        "anyOf": [{"required": ["status_id"]}, {"required": ["input_schema_hash"]}],
    }  # fmt: skip
    return _operation(
        "provide_input", "Answer the question of a job in awaiting_input.",
        _ref(Answered), (400, 404, 408, 409, 413), body=body,
    )  # fmt: skip


def _availability(agent: Agent) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "status": {"const": "available"},
        "type": {"const": "masumi-agent"},
        "message": {"type": "string"},
    }
    if agent.identifier is not None:
        properties["agentIdentifier"] = {"const": agent.identifier}
    answer = {"type": "object", "properties": properties, "required": [*properties]}
    return _operation("availability", "Say whether jobs are taken.", answer, ())


def _input_schema() -> dict[str, Any]:
    fields = {"type": "array", "items": {"type": "object", "required": ["id", "type", "name"]}}
    answer = {
        "type": "object",
        "properties": {
            "input_data": fields,
            "input_groups": {
                "type": "array",
                "items": {"type": "object", "required": ["id", "title", "input_data"]},
            },
        },
        "oneOf": [{"required": ["input_data"]}, {"required": ["input_groups"]}],
    }
    return _operation("input_schema", "Show what the input of a job must be.", answer, ())


def _demo(agent: Agent) -> dict[str, Any]:
    answer = {
        "type": "object",
        "properties": {
            "input": {"type": "object"},
            "output": {
                "type": "object",
                "properties": {"result": {"type": "string"}},
                "required": ["result"],
            },
        },
        "required": ["input", "output"],
    }
    is_there = agent.demo is not None
    return _operation(
        "demo", "Show an example of input and output.",
        answer if is_there else None, () if is_there else (404,),
    )  # fmt: skip
