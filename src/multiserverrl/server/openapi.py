"""The description of the HTTP routes that the server itself serves: OpenAPI 3.1, and a page made from it."""

from __future__ import annotations

import base64
import hashlib
import html
from functools import cache
from typing import Any

from multiserverrl import __version__
from multiserverrl.server.openapischemas import FRAME_TYPE, refusals, schemas

__all__ = ["PAGE_POLICY", "document", "page"]

_SESSION = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
_ENV = {
    "name": "env", "in": "query", "schema": {"type": "integer", "default": 0, "minimum": 0},
    "description": "which env's frame",
}  # fmt: skip
_TOKEN: list[dict[str, list[str]]] = [{"token": []}, {}]  # where the server was given one
_SECRET: list[dict[str, list[str]]] = [{"token": [], "secret": []}, {"secret": []}]

_STEP_ANSWER = (
    "seq, lane, obs, reward, terminated, truncated, info; lists with one item an env where the session has several. "
    "Non-finite numbers are the strings NaN, Infinity, -Infinity; integers beyond 2^53 are strings."
)
_SUMMARIES = {
    "reset": ("Reset the envs", _STEP_ANSWER, "Stepped"),
    "step": ("Step every env once; repeating a seq gives the same answer and does not step", _STEP_ANSWER, "Stepped"),
    "render": ("Fetch a frame: PNG for images, text for ansi", "image/png, text/plain or JSON", "Rendered"),
    "call": ("Get, set or call an attribute that the operator allows (--allow-attr)", "seq, lane, values", "Called"),
}


@cache
def document() -> dict[str, Any]:
    """The OpenAPI document."""
    paths: dict[str, Any] = {
        "/": {"get": _operation("Where to read on", "name, version, docs, openapi", "Index")},
        "/docs": {"get": _operation("This description for people", "a page", "", content={"text/html": {}})},
        "/openapi.json": {"get": _operation("This description", "an OpenAPI document", "Document")},
        "/health": {
            "get": _operation("Whether the server and its env workers are up", "status, workers, workers_up", "Health")
        },
        "/v1/envs": {
            "get": _operation(
                "What is served, and how much of it is free", "capacity, free, envs with their spaces", "Served"
            )
        },
        "/v1/stream": {"get": _stream()},
        "/v1/sessions": {
            "post": _operation(
                "Open a session: a hold on one or several envs",
                "session, secret, lanes, env, time_to_live_s", "Opened", body="OpenBody", status="201",
            )
        },
        "/v1/sessions/{session}": {
            "delete": _operation(
                "Close the session and free its envs", "closed", "Closed", parameters=[_SESSION], security=_SECRET
            )
        },
    }  # fmt: skip
    for name, (summary, answer, schema) in _SUMMARIES.items():
        paths[f"/v1/sessions/{{session}}/{name}"] = {
            "post": _operation(
                summary, answer, schema, body=f"{name.capitalize()}Body", security=_SECRET,
                parameters=[_SESSION, *([_ENV] if name == "render" else [])],
            )
        }  # fmt: skip
    return {
        "openapi": "3.1.0",
        "info": {"title": "multiserverrl env server", "version": __version__, "description": _DESCRIPTION},
        "paths": paths,
        "components": {"schemas": schemas(), "securitySchemes": _SCHEMES},
    }


_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "the server's token, where it was given one"},
    "secret": {
        "type": "apiKey", "in": "header", "name": "Session-Secret",
        "description": "the secret that opening the session gave",
    },
}  # fmt: skip

_DESCRIPTION = (
    "Gymnasium environments over HTTP. Open a session, then reset and step it; each request on a session bears seq, "
    "1 for the first and one more each time. A repeat of the last seq with the same body gets the same answer and "
    "steps nothing. The same operations travel faster as binary messages on the WebSocket /v1/stream."
)


def _operation(
    summary: str,
    answer: str,
    schema: str,
    *,
    body: str = "",
    status: str = "200",
    parameters: list[Any] | None = None,
    security: list[dict[str, list[str]]] = _TOKEN,
    content: dict[str, Any] | None = None,
) -> dict[str, Any]:
    told = content or {"application/json": {"schema": _reference(schema)}}
    if schema == "Rendered":
        told = {**told, "image/png": _BINARY, "text/plain": {"schema": {"type": "string"}}}
    if body:
        told = {**told, FRAME_TYPE: _BINARY}
    operation: dict[str, Any] = {
        "summary": summary,
        "security": security,
        "responses": {status: {"description": answer, "content": told}, **refusals()},
    }
    if parameters:
        operation["parameters"] = parameters
    if body:
        given = {"application/json": {"schema": _reference(body)}, FRAME_TYPE: _BINARY}
        operation["requestBody"] = {"required": body != "OpenBody", "content": given}
    return operation


def _reference(schema: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{schema}"}


_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _stream() -> dict[str, Any]:
    operation = _operation("The WebSocket of binary messages, docs/protocol.md", "", "Index")
    operation["responses"] = {"101": {"description": "a WebSocket from here on"}, **refusals()}
    return operation


@cache
def page() -> str:
    """The same for people: plain HTML, nothing fetched from elsewhere."""
    described = document()
    rows = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            reference = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = reference.get("schema", {}).get("$ref", "").rpartition("/")[2]
            fields = ", ".join(described["components"]["schemas"].get(name, {}).get("properties", {}))
            answer = next(iter(operation["responses"].values()))["description"]
            cells = (f"{method.upper()} {path}", operation["summary"], fields, answer)
            rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    table = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return _PAGE.format(style=_STYLE, description=html.escape(_DESCRIPTION), table=table, example=html.escape(_EXAMPLE))


_EXAMPLE = """\
curl -s localhost:1800/v1/envs
curl -s localhost:1800/v1/sessions -d '{"render_mode": "rgb_array"}'      # gives session and secret
S=localhost:1800/v1/sessions/SESSION; K='Session-Secret: SECRET'
curl -s $S/reset -H "$K" -d '{"seq": 1, "seed": 42}'
curl -s $S/step -H "$K" -d '{"seq": 2, "action": 1}'
curl -s $S/render -H "$K" -d '{"seq": 3}' > frame.png
curl -s -X DELETE $S -H "$K\""""

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
td,th{text-align:left;vertical-align:top;padding:.4rem .8rem .4rem 0;border-bottom:1px solid #ccc}
td:first-child{font-family:monospace;white-space:nowrap}pre{background:#f4f4f4;padding:1rem;overflow:auto}"""

_STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_POLICY = (  # the page may do nothing but be shown, in its own style, in no other page
    f"default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>multiserverrl env server</title>
<style>{style}</style></head>
<body><h1>multiserverrl env server</h1><p>{description}</p>
<pre>{example}</pre>
<table><tr><th>request</th><th>what it does</th><th>body</th><th>answer</th></tr>
{table}</table><p>Machine-readable: <a href="/openapi.json">/openapi.json</a></p></body></html>"""
