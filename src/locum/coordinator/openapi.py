"""The OpenAPI 3.1 description, made from the table of endpoints and the types of their bodies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Protocol

import msgspec

from locum.federation.wire import Problem

TEMPLATE = "#/components/schemas/{name}"


class Described(Protocol):
    """What the description needs to know of an endpoint."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def roles(self) -> tuple[str, ...]: ...
    @property
    def summary(self) -> str: ...
    @property
    def request(self) -> Any: ...
    @property
    def response(self) -> Any: ...
    @property
    def headers(self) -> tuple[str, ...]: ...
    @property
    def query(self) -> tuple[str, ...]: ...


def document(endpoints: Sequence[Described], url: str) -> dict[str, Any]:
    """The whole description as JSON data."""
    types = list({repr(t): t for e in endpoints for t in (e.request, e.response) if t not in (None, bytes)}.values())
    schemas, components = msgspec.json.schema_components([*types, Problem], ref_template=TEMPLATE)
    schema_of = {repr(t): s for t, s in zip([*types, Problem], schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for e in endpoints:
        paths.setdefault(re.sub(r":\w+}", "}", e.path), {})[e.method.lower()] = _operation(e, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Locum coordinator", "version": version("locum"), "description": __doc__ and "A federation's coordinator. See docs/."},
        "servers": [{"url": url}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "signature": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "Locum sender=NAME,time=UNIX,digest=SHA256,signature=ED25519 over federation, sender, method, target, time and digest",
                }
            },
        },
    }


def _operation(e: Described, schema_of: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "integer" if ":int" in kind else "string"}}
        for name, kind in re.findall(r"{(\w+)(:\w+)?}", e.path)
    ]
    parameters += [{"name": name, "in": "query", "schema": {"type": "string"}} for name in e.query]
    parameters += [{"name": name, "in": "header", "required": name != "Range", "schema": {"type": "string"}} for name in e.headers]
    ok: dict[str, Any] = {"description": e.summary}
    if e.response is not None:
        ok["content"] = _content(e.response, schema_of)
    problem = {"description": "What happened, why, and what to do", "content": _content(Problem, schema_of)}
    operation: dict[str, Any] = {
        "summary": e.summary,
        "operationId": re.sub(r"\W+", "_", f"{e.method.lower()} {e.path.replace(':int', '')}").strip("_"),
        "parameters": parameters,
        "responses": {"200": ok, "default": problem},
        "security": [{"signature": []}] if e.roles else [],
        "x-locum-roles": list(e.roles),
    }
    if e.request is not None:
        operation["requestBody"] = {"required": e.request is not bytes, "content": _content(e.request, schema_of)}
    return operation


def _content(kind: Any, schema_of: dict[str, Any]) -> dict[str, Any]:
    if kind is bytes:
        return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    media = "text/plain" if kind is str else "application/json"
    return {media: {"schema": schema_of[repr(kind)]}}
