"""The WebSocket side: one connection holds one session; one binary message each way a request."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from multiserverrl.errors import EnvFault, MultiServerRLError, VersionMismatch, WireError
from multiserverrl.observe.log import log
from multiserverrl.server.lending import lend
from multiserverrl.server.requests import Requests
from multiserverrl.server.sessions import LiveSession, Sessions
from multiserverrl.server.websocket import EXTENSION, StreamProtocol
from multiserverrl.wire import frames
from multiserverrl.wire.coding import HEADER, LEAST_BYTES, Codec, Coding, CodingError
from multiserverrl.wire.messages import Open, Refused, Resume

__all__ = ["CLOSED_BAD", "CLOSED_FENCED", "CLOSED_STOPPING", "Stream", "address_of"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

CLOSED_FENCED = 4001  # a newer connection took the session over, or the session ended
CLOSED_BAD = 4002  # bytes that are no message
CLOSED_STOPPING = 4005  # the server stops, and its sessions end with it


class Stream:
    """The ASGI application behind the WebSocket route."""

    def __init__(self, sessions: Sessions, requests: Requests) -> None:
        self._sessions, self._requests = sessions, requests
        self._codings = Coding(sessions.config.compression, checksum=True)
        self._numbers = itertools.count(1)
        self._live: dict[int, _Connection] = {}
        sessions.fence, sessions.hang_up = self._fence, self._hang_up

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        await receive()  # websocket.connect
        coding = self._codings & _asked(scope)
        told = [(HEADER.lower().encode(), str(coding).encode())] if coding else []
        await send({"type": "websocket.accept", "headers": told})
        number = next(self._numbers)
        connection = self._live[number] = _Connection(
            self._sessions, self._requests, scope["extensions"][EXTENSION], number, coding, address_of(scope)
        )
        try:
            while (await receive())["type"] != "websocket.disconnect":
                connection.protocol.close(CLOSED_BAD, "wait for the handshake before the first message")
        finally:
            del self._live[number]
            await connection.ended()

    def _fence(self, number: int) -> None:
        connection = self._live.get(number)
        if connection is not None:
            connection.protocol.close(CLOSED_FENCED, "the session was taken over, or it ended")

    def _hang_up(self, reason: str) -> None:
        for connection in list(self._live.values()):
            if not connection.protocol.is_lent:
                connection.protocol.close(CLOSED_STOPPING, reason)


class _Connection:
    """What the messages of one connection do: the first opens or resumes a session, the rest are its requests."""

    def __init__(
        self,
        sessions: Sessions,
        requests: Requests,
        protocol: StreamProtocol,
        number: int,
        coding: Coding,
        client: str,
    ) -> None:
        self._sessions, self._requests = sessions, requests
        self.protocol, self._number, self._client = protocol, number, client
        self._session: LiveSession | None = None
        self._opening: asyncio.Task[None] | None = None
        self._early: list[bytes] | None = None  # what came while the session was resumed
        self._send: Callable[[bytes], None] = protocol.send_message
        self._answer: Callable[[bytes], None] = self._answer_and_lend
        self._coding = coding
        if coding:
            self._codec = Codec(coding, sessions.config.max_message_bytes)
            self._send, self._answer = self._send_coded, self._answer_coded
        protocol.begin(self._on_coded if coding else self._on_message)

    def _on_coded(self, frame: bytes) -> None:
        try:
            plain = bytes(self._codec.decode(frame))
        except CodingError as error:
            log("frame_refused", connection=self._number, error=str(error))
            self.protocol.close(error.close_code, str(error))
            return
        self._on_message(plain)

    def _send_coded(self, frame: bytes) -> None:
        self.protocol.send_message(self._codec.encode(frame))

    def _answer_coded(self, frame: bytes) -> None:
        self._send_coded(frame)
        asyncio.get_running_loop().call_soon(self._lend)

    def _answer_and_lend(self, frame: bytes) -> None:
        self.protocol.send_message(frame)
        asyncio.get_running_loop().call_soon(self._lend)  # when the books of this request are kept

    def _lend(self) -> None:
        """Let the env worker answer by itself from now on, where it can."""
        session, sessions = self._session, self._sessions
        if session is None:
            return
        if sessions.live.get(session.state.id) is not session:  # closed, perhaps while its last request ran
            self.protocol.hurry()
            return
        if sessions.is_draining or self._is_coded(session):
            return
        if session.state.connection == self._number:
            lend(session, self.protocol, sessions.config.max_message_bytes)

    def _is_coded(self, session: LiveSession) -> bool:
        """Whether its frames may be: env workers know plain ones only, as are those too short to be compressed."""
        coding = self._coding
        if not coding:
            return False
        return coding.checksum or any(lane.layout.size_bytes >= LEAST_BYTES for lane in session.lanes)

    def _on_message(self, frame: bytes) -> None:
        try:
            if self._session is not None:
                self._requests.submit(self._session, self._number, frame, self._answer)
            elif self._early is not None:  # a few at most: those behind them are not read before the answer
                self._early.append(frame)
            elif self._opening is not None and not self._opening.done():
                raise WireError("wait for the answer to open before the next message")
            else:
                self._begin(frame)
        except (WireError, VersionMismatch) as error:
            self.protocol.close(CLOSED_BAD, str(error))

    def _begin(self, frame: bytes) -> None:
        """Open or resume; a refusal leaves the connection open for another try."""
        try:
            request, _ = frames.decode_request(frame)
            self.protocol.wait()  # for free envs, perhaps
            if isinstance(request, Open):
                self._opening = asyncio.get_running_loop().create_task(self._open(request))
            elif isinstance(request, Resume):
                self._early = []
                self._opening = asyncio.get_running_loop().create_task(self._resume(request))
            else:
                raise WireError("open or resume a session first")
        except MultiServerRLError as error:
            self._refuse(error)

    async def _open(self, request: Open) -> None:
        try:
            opened = await self._sessions.open(request, self._number, self._client)
        except MultiServerRLError as error:
            self._refuse(error)
            return
        self._has_session(self._sessions.live[opened.session])
        self._answer(frames.encode(opened))

    def _has_session(self, session: LiveSession) -> None:
        self._session = session
        self.protocol.allow(len(session.lanes))

    async def _resume(self, request: Resume) -> None:
        early: list[bytes] = []
        try:
            session, resumed = await self._sessions.resume(request, self._number)
        except MultiServerRLError as error:
            self._refuse(error)
        else:
            self._has_session(session)
            self._answer(frames.encode(resumed))
            early = self._early or []
        self._early = None
        for frame in early:
            self._on_message(frame)

    def _refuse(self, error: MultiServerRLError) -> None:
        remote_traceback = error.remote_traceback if isinstance(error, EnvFault) else ""
        self._send(frames.encode(Refused(0, 0, error.code, error.headline, remote_traceback)))
        self.protocol.hurry()

    async def ended(self) -> None:
        """The connection is over. A client that never learnt its session's name cannot come back for it."""
        if self._opening is not None and not self._opening.done():
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._session is not None:
            self._sessions.disconnected(self._session, self._number)


def address_of(scope: Message) -> str:
    """The address that a request or connection comes from; empty where there is none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def _asked(scope: Message) -> Coding:
    """What the client's handshake asks for."""
    wanted = HEADER.lower().encode()
    return Coding.parse(", ".join(value.decode("latin-1") for name, value in scope["headers"] if name == wanted))
