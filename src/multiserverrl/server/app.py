"""The HTTP side: every operation as a plain request, JSON for people, frames by content type.

The same sessions and the same rules as the WebSocket stream: a request becomes a frame, the frame is
performed exactly once, its answer's frame becomes JSON (or PNG, or text).
"""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from multiserverrl import __version__
from multiserverrl.errors import MisuseError, MultiServerRLError, ServerFull, WireError, error_for
from multiserverrl.server import jsonrequests, openapi
from multiserverrl.server.auth import Door
from multiserverrl.server.limits import TooLarge
from multiserverrl.server.openapischemas import FRAME_TYPE
from multiserverrl.server.requests import Requests
from multiserverrl.server.sessions import LiveSession, Sessions
from multiserverrl.server.stream import Stream, address_of
from multiserverrl.wire import frames
from multiserverrl.wire.jsonvalues import to_json
from multiserverrl.wire.messages import PROTOCOL_VERSION, Close, Open, Opened, Refused, Rendered
from multiserverrl.wire.messages import Request as WireRequest
from multiserverrl.wire.trees import unpack_rows

__all__ = ["FRAME_TYPE", "STREAM_PATH", "make_app"]

STREAM_PATH = "/v1/stream"
SECRET_HEADER = "session-secret"
_MOST_OPENING_BYTES = 1 << 20  # of a body that comes without a session's secret

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]


def make_app(sessions: Sessions, door: Door) -> App:
    """The ASGI application of one server: routes for HTTP, the stream for WebSockets, the door before both."""
    requests = Requests(sessions)
    routes = _Routes(sessions, requests)
    http = Starlette(
        routes=routes.all(),
        exception_handlers={MultiServerRLError: _refusal, HTTPException: _no_such_request, Exception: _crash},
    )
    stream = Stream(sessions, requests)

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        try:
            door.check(scope)
        except MultiServerRLError as error:
            await _refuse_at_the_door(scope, receive, send, error)
            return
        if scope["type"] == "http":
            await http(scope, receive, send)
        elif scope["path"] == STREAM_PATH:
            await stream(scope, receive, send)
        else:
            await _refuse_at_the_door(scope, receive, send, MisuseError(f"WebSockets are at {STREAM_PATH}"))

    return app


async def _refuse_at_the_door(scope: Scope, receive: Any, send: Any, error: MultiServerRLError) -> None:
    response = _error_response(error)
    if scope["type"] == "websocket":
        await receive()
        start = {
            "type": "websocket.http.response.start",
            "status": response.status_code,
            "headers": response.raw_headers,
        }
        await send(start)
        await send({"type": "websocket.http.response.body", "body": response.body})
        return
    await response(scope, receive, send)


def _error_response(error: MultiServerRLError, **more: Any) -> JSONResponse:
    body = {"error": error.code, "message": error.headline, **more}
    headers = {"Retry-After": _retry_after(error)} if error.http_status == 503 else None
    if error.http_status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse(body, error.http_status, headers)


def _retry_after(error: MultiServerRLError) -> str:
    """In whole seconds, not too long: what is held may be given back early."""
    known = error.retry_after_s if isinstance(error, ServerFull) else None
    return str(5 if known is None else max(1, min(math.ceil(known), 60)))


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, MultiServerRLError)
    return _error_response(error)


async def _no_such_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"there is no {request.method} {request.url.path} here (see /docs)"
    return JSONResponse({"error": "misuse", "message": message}, error.status_code, error.headers)


async def _crash(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "internal", "message": "the server failed at this; its log says how"}, 500)


class _Routes:
    """One method a route."""

    def __init__(self, sessions: Sessions, requests: Requests) -> None:
        self._sessions, self._requests = sessions, requests

    def all(self) -> list[Route]:
        """Everything that answers to plain HTTP; the door stands before all of it."""
        return [
            Route("/", self.index),
            Route("/health", self.health),
            Route("/docs", self.docs),
            Route("/openapi.json", self.openapi),
            Route("/v1/envs", self.envs),
            Route("/v1/sessions", self.open, methods=["POST"]),
            Route("/v1/sessions/{session}", self.close, methods=["DELETE"]),
            Route("/v1/sessions/{session}/{operation}", self.operate, methods=["POST"]),
        ]

    async def index(self, request: Request) -> Response:
        return JSONResponse(
            {"name": "multiserverrl", "version": __version__, "docs": "/docs", "openapi": "/openapi.json"}
        )

    async def health(self, request: Request) -> Response:
        """Answered by a process that runs no env code, so a busy env never looks dead."""
        return JSONResponse(self._sessions.pool.health())

    async def docs(self, request: Request) -> Response:
        return HTMLResponse(openapi.page(), headers={"Content-Security-Policy": openapi.PAGE_POLICY})

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(openapi.document())

    async def envs(self, request: Request) -> Response:
        sessions = self._sessions
        return JSONResponse(
            {
                "protocol": PROTOCOL_VERSION,
                "version": __version__,
                "capacity": sessions.config.count,
                "free": sessions.config.count - sessions.num_open,
                "envs": [msgspec.to_builtins(env) for env in sessions.envs.values()],
            }
        )

    async def open(self, request: Request) -> Response:
        content, is_frame = await self._content(request, _MOST_OPENING_BYTES)
        message: WireRequest = frames.decode_request(content)[0] if is_frame else jsonrequests.open_of(content)
        if not isinstance(message, Open):
            raise WireError("an open message was expected here")
        opened = await self._open_for(request, message)
        if is_frame:
            return Response(frames.encode(opened), 201, media_type=FRAME_TYPE)
        return JSONResponse(
            {name: msgspec.to_builtins(getattr(opened, name)) for name in opened.__struct_fields__}, 201
        )

    async def _open_for(self, request: Request, message: Open) -> Opened:
        """A session; none where the client goes away meanwhile, for nobody would close it."""
        opening = asyncio.create_task(self._sessions.open(message, None, address_of(request.scope)))
        leaving = asyncio.create_task(_until_gone(request))
        try:
            await asyncio.wait({opening, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            is_gone = leaving.done()
            leaving.cancel()
            if not opening.done():
                opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        if opening.cancelled():
            raise WireError("the client went away before its session was open")
        opened = opening.result()
        if is_gone:
            await self._sessions.close(self._sessions.get(opened.session), "its client went away")
        return opened

    async def close(self, request: Request) -> Response:
        session = self._session(request)
        await self._sessions.close(session, "closed by its client")
        return JSONResponse({"closed": session.state.id})

    async def operate(self, request: Request) -> Response:
        session = self._session(request)
        content, is_frame = await self._content(request)
        if is_frame:
            return Response(await self._requests.perform(session, None, content), media_type=FRAME_TYPE)
        operation = request.path_params["operation"]
        message, body = jsonrequests.request_of(operation, content, session.lanes)
        if isinstance(message, Close):
            raise MisuseError("close a session with DELETE /v1/sessions/{session}")
        answer, answer_body = frames.decode_answer(
            await self._requests.perform(session, None, frames.encode(message, body))
        )
        if isinstance(answer, Refused):
            refusal = error_for(answer.code, answer.message)
            return _error_response(refusal, is_final=answer.is_final, traceback=answer.traceback)
        if isinstance(answer, Rendered):
            return _rendered(answer, request.query_params.get("env", "0"))
        return JSONResponse(
            jsonrequests.answer_json(answer, answer_body, session.lanes[message.lane], session.num_envs == 1)
        )

    def _session(self, request: Request) -> LiveSession:
        session = self._sessions.get(request.path_params["session"])
        session.state.authenticate(request.headers.get(SECRET_HEADER, ""))
        return session

    async def _content(self, request: Request, limit: int | None = None) -> tuple[bytes, bool]:
        """The body, and whether it is a frame. The protocol under it refuses what is beyond --max-message-bytes."""
        content = bytearray()
        try:
            async for part in request.stream():
                content += part
                if limit is not None and len(content) > limit:
                    raise TooLarge(f"the body is larger than {limit} bytes, which is enough to open a session")
        except ClientDisconnect as error:
            raise WireError("the request's body was cut off") from error
        return bytes(content), request.headers.get("content-type", "") == FRAME_TYPE


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _rendered(answer: Rendered, env: str) -> Response:
    """An image as PNG, text as text, anything else as JSON."""
    shown = {str(row): frame for row, frame in unpack_rows(answer.frames).items()}
    if env not in shown:
        raise MisuseError(f"?env= must name one of the envs 0 to {len(shown) - 1}, not {env[:20]!r}")
    frame = shown[env]
    if isinstance(frame, list) and frame and isinstance(frame[-1], np.ndarray):
        frame = frame[-1]
    if isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim in (2, 3):
        png = io.BytesIO()
        Image.fromarray(frame).save(png, "PNG")
        return Response(png.getvalue(), media_type="image/png")
    if isinstance(frame, str):
        return PlainTextResponse(frame)
    return JSONResponse({"frame": to_json(frame)})
