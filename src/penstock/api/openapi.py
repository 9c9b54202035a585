"""The OpenAPI document: what FastAPI knows of the routes, and what our route class adds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from penstock.api.context import ANYONE, AUTHENTICATED
from penstock.api.problems import MEDIA_TYPE, PROBLEMS
from penstock.api.routing import Route

_PROBLEM: Final[dict[str, Any]] = {
    "type": "object",
    "title": "Problem",
    "description": "Why a request could not be served (RFC 9457).",
    "required": ["type", "title", "status", "detail", "code", "instance", "request_id"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What happened and what to do about it."},
        "code": {"type": "string", "enum": sorted(PROBLEMS)},
        "instance": {"type": "string"},
        "request_id": {"type": ["string", "null"]},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["message"],
                "properties": {
                    "message": {"type": "string"},
                    "pointer": {"type": "string", "description": "In the body, by RFC 6901."},
                    "in": {"type": "string"},
                    "parameter": {"type": "string"},
                },
            },
        },
    },
    "examples": [
        {
            "type": "/problems/validation_failed",
            "title": "Validation failed",
            "status": 422,
            "detail": "Field required (at /event_type). Correct what 'errors' lists and send "
            "the request again.",
            "code": "validation_failed",
            "instance": "/v1/events",
            "request_id": "req_01kdvq5x3s7hf9a2b4c6d8e0gm",
            "errors": [{"message": "Field required", "pointer": "/event_type"}],
        }
    ],
}
_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`psk_…`) or, where an issuer is configured, its JWT.",
}


def build(app: FastAPI) -> dict[str, Any]:
    """The document of `app`; made once, FastAPI's own cache is bypassed."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version=app.openapi_version,
        description=app.description,
        routes=app.routes,
    )
    schemas: dict[str, Any] = document.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # we answer with problems
        schemas.pop(unused, None)
    schemas["Problem"] = _PROBLEM
    document["components"]["securitySchemes"] = {"bearer": _BEARER}
    routes = [route for route in app.routes if isinstance(route, Route)]
    references = _bodies(routes, schemas)
    for route in routes:
        if route.include_in_schema:
            for method in route.methods or ():
                operation = document["paths"][route.path_format][method.lower()]
                _complete(operation, route, references)
    return document


def _bodies(routes: Iterable[Route], schemas: dict[str, Any]) -> dict[type[BaseModel], Any]:
    """Adds the models that routes read themselves; returns a reference to each."""
    models = list(dict.fromkeys(route.needs.body for route in routes if route.needs.body))
    references, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    for name, schema in definitions.get("$defs", {}).items():
        schemas.setdefault(name, schema)
    return {model: references[model, "validation"] for model in models}


def _complete(
    operation: dict[str, Any], route: Route, references: dict[type[BaseModel], Any]
) -> None:
    needs = route.needs
    if needs.scope == ANYONE:
        operation["security"] = []
    else:
        operation["security"] = [{"bearer": []}]
        if needs.scope != AUTHENTICATED:
            operation["x-scope"] = needs.scope
    if needs.body is not None:
        others = operation.get("requestBody", {}).get("content", {})
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": references[needs.body]}, **others},
        }
    responses = operation.setdefault("responses", {})
    content = responses.get("422", {}).get("content", {}).get("application/json", {})
    if "HTTPValidationError" in str(content.get("schema")):
        del responses["422"]
    problem = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
    responses["4XX"] = {"description": "The request was refused.", **problem}
    responses["5XX"] = {"description": "The server could not serve it.", **problem}
