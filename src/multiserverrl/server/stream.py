"""The WebSocket side: one connection holds one session; one binary message each way a request.

A session with one lane is served in line; with more lanes each request is a task of its own, so that
a slow lane does not hold up the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from multiserverrl.errors import MultiServerRLError, WireError
from multiserverrl.server.sessions import LiveSession, Sessions
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Open, Refused, Resume

__all__ = ["CLOSED_BAD", "CLOSED_FENCED", "Stream"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CLOSED_FENCED = 4001  # a newer connection took the session over, or the session ended
CLOSED_BAD = 4002  # bytes that are no message


class Stream:
    """The ASGI application behind the WebSocket route."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._numbers = itertools.count(1)
        self._sends: dict[int, Send] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        sessions.fence = self._fence

    async def __call__(self, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        number = next(self._numbers)
        self._sends[number] = send
        session: LiveSession | None = None
        try:
            session = await self._begin(number, receive, send)
            if session is not None:
                await self._serve(session, number, receive, send)
        except (WireError, OSError) as error:  # OSError: the client went away in mid-answer
            with contextlib.suppress(OSError, RuntimeError):
                await send({"type": "websocket.close", "code": CLOSED_BAD, "reason": str(error)[:100]})
        finally:
            del self._sends[number]
            if session is not None:
                self._sessions.disconnected(session, number)

    async def _begin(self, number: int, receive: Receive, send: Send) -> LiveSession | None:
        """The first message opens or resumes a session; a refusal leaves the connection open for another try."""
        while True:
            frame = await _next_frame(receive)
            if frame is None:
                return None
            try:
                request, _ = frames.decode_request(frame)
                if isinstance(request, Open):
                    opened = await self._sessions.open(request, number)
                    session = self._sessions.live[opened.session]
                    await self._answer_open(session, number, send, frames.encode(opened))
                    return session
                if isinstance(request, Resume):
                    session, resumed = self._sessions.resume(request, number)
                    await send({"type": "websocket.send", "bytes": frames.encode(resumed)})
                    return session
                raise WireError("open or resume a session first")
            except MultiServerRLError as error:
                await send({"type": "websocket.send", "bytes": frames.encode(Refused(0, 0, error.code, str(error)))})

    async def _answer_open(self, session: LiveSession, number: int, send: Send, answer: bytes) -> None:
        """A client that never learnt its session's name cannot come back for it: free it at once."""
        try:
            await send({"type": "websocket.send", "bytes": answer})
        except OSError:
            self._sessions.disconnected(session, number)
            await self._sessions.close(session, "its client went away while it was opened")
            raise

    async def _serve(self, session: LiveSession, number: int, receive: Receive, send: Send) -> None:
        is_single = len(session.lanes) == 1
        perform = self._sessions.perform
        while True:
            frame = await _next_frame(receive)
            if frame is None:
                return
            if is_single:
                await send({"type": "websocket.send", "bytes": await perform(session, number, frame)})
            else:
                task = asyncio.get_running_loop().create_task(self._one(session, number, frame, send))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _one(self, session: LiveSession, number: int, frame: bytes, send: Send) -> None:
        try:
            answer = await self._sessions.perform(session, number, frame)
            await send({"type": "websocket.send", "bytes": answer})
        except OSError:
            pass  # the client went away; its answer is kept
        except WireError as error:
            await send({"type": "websocket.close", "code": CLOSED_BAD, "reason": str(error)[:100]})

    def _fence(self, number: int) -> None:
        send = self._sends.get(number)
        if send is None:
            return

        async def close() -> None:
            with contextlib.suppress(OSError, RuntimeError):
                await send({"type": "websocket.close", "code": CLOSED_FENCED, "reason": "the session was taken over or ended"})

        task = asyncio.get_running_loop().create_task(close())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _next_frame(receive: Receive) -> bytes | None:
    """The next binary message; None when the connection ends."""
    event = await receive()
    if event["type"] != "websocket.receive":
        return None
    frame: bytes | None = event.get("bytes")
    if frame is None:
        raise WireError("messages are binary; for JSON use the HTTP routes (see /docs)")
    return frame
