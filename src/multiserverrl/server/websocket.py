"""The WebSocket protocol under the stream: the handshake by uvicorn and `websockets`, the messages by hand.

uvicorn's own class parses each frame in a generic parser, queues it for a coroutine, and pauses the
socket meanwhile: about 39 µs of a step, measured on a server under load. Here a whole masked message is unmasked and
handed to a callback at once, and an answer is one write (bench/step.py, row W1).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from multiserverrl.wire.tcp import INFO_BYTES, unheard_s
from multiserverrl.wire.websocket import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame_head,
    next_message,
    unmask,
    unmasked,
)

__all__ = ["CLOSED_LATE", "EXTENSION", "StreamProtocol"]

CLOSED_LATE = 4004  # no session was opened or resumed in time, or it was closed for as long
EXTENSION = "multiserverrl.connection"  # where the ASGI scope holds the protocol itself

_MOST_PARTS = 4096  # of one message
_MOST_CONTROL_BYTES = 125  # RFC 6455, 5.5
_TOO_BIG, _PROTOCOL_ERROR, _UNSUPPORTED = 1009, 1002, 1003
_LARGE_BYTES = 1 << 16  # a payload that is not copied more often than need be
_CLOSE_S = 10.0  # for a client to take what was written before the end
_FIRST_BYTES = 1 << 20  # of a message while there is no session
_FIRST_MESSAGES = 2


class StreamProtocol(WebSocketsSansIOProtocol):
    """One connection. After `begin`, each binary message goes to the callback; `send_message` answers each once.

    Messages whose answers are not on their way yet, or that the client does not take, hold up those behind
    them: these are not read, so a client that asks and does not listen fills its own buffers, not ours.
    """

    _on_message: Callable[[bytes], None] | None = None
    _waiting: bytearray
    _parts: list[bytes]
    _parts_bytes = 0
    is_lent = False
    _fd = -1  # of a plain socket; TLS goes through the transport
    _most_bytes = 0  # of a message
    _most_unanswered = _FIRST_MESSAGES
    _unanswered = 0
    _is_held = False  # what has come waits
    _timer: asyncio.TimerHandle | None = None  # until there is a session
    _leave: Callable[[], None] | None = None

    def adopt(self, handshake_s: float, leave: Callable[[], None]) -> None:
        """Take over from the HTTP protocol, whose place among the connections this is; `leave` gives it back."""
        self._handshake_s, self._leave = handshake_s, leave
        self._most_bytes = min(_FIRST_BYTES, self.config.ws_max_size)
        self.hurry()

    def hurry(self) -> None:
        """There is no session: from now on the client has --handshake-s to get as far as a message."""
        self.wait()
        self._timer = self.loop.call_later(self._handshake_s, self._too_slow)

    def wait(self) -> None:
        """The client may take its time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self._on_message is None:
            self.transport.abort()
        else:
            told = f"without a session a connection is kept for {self._handshake_s:g} s (serve … --handshake-s)"
            self.close(CLOSED_LATE, told)

    def connection_lost(self, exc: Exception | None) -> None:
        self.wait()
        super().connection_lost(exc)
        if self._leave is not None:
            self._leave()

    def allow(self, num_lanes: int) -> None:
        """There is a session: each of its lanes may have a request in flight, of any size that is allowed."""
        self._most_bytes = self.config.ws_max_size
        self._most_unanswered = num_lanes + _FIRST_MESSAGES

    async def run_asgi(self) -> None:
        """Let the application find this connection in its scope."""
        extensions: dict[str, Any] = self.scope["extensions"]
        extensions[EXTENSION] = self
        await super().run_asgi()

    def begin(self, on_message: Callable[[bytes], None]) -> None:
        """The handshake is over: hand every binary message to `on_message` from now on."""
        self._waiting, self._parts = bytearray(), []
        connected = self.transport.get_extra_info("socket")
        if self.scheme == "ws" and connected is not None and sys.platform != "win32":
            self._fd = connected.fileno()
        self._on_message = on_message

    def data_received(self, data: bytes) -> None:
        if self._on_message is None:
            super().data_received(data)
            return
        waiting = self._waiting
        if not waiting and not self._parts and not self._is_held:
            payload, end = next_message(data)
            if payload is not None and end == len(data) and len(payload) <= self._most_bytes:
                self._hand_over(payload)
                return
        waiting += data
        self._work()

    def _work(self) -> None:
        """Act on the frames that have come, until one is not whole or those before it are to be answered first."""
        waiting = self._waiting
        while waiting and not self._is_held and (end := self._one_frame(waiting)):
            del waiting[:end]
        if self.close_sent:
            waiting.clear()

    def _hand_over(self, message: bytes) -> None:
        assert self._on_message is not None
        self._unanswered += 1
        if self._unanswered >= self._most_unanswered:
            self._hold()
        self._on_message(message)

    def _hold(self) -> None:
        if not self._is_held:
            self._is_held = True
            if not self.transport.is_closing():
                self.transport.pause_reading()

    def _release(self) -> None:
        """Go on, if nothing is in the way any more."""
        if not self._is_held or self._unanswered >= self._most_unanswered or not self.writable.is_set():
            return
        self._is_held = False
        if not (self.is_lent or self.disconnected or self.transport.is_closing()):
            self.transport.resume_reading()
            self._work()

    def _one_frame(self, data: bytearray) -> int:
        """Take one whole frame off the front and act on it; 0 when it has not all come."""
        if len(data) < 6:
            return 0
        first, second = data[0], data[1]
        size, start = second & 0x7F, 2
        if size >= 126:
            start = 4 if size == 126 else 10
            if len(data) < start:
                return 0
            size = int.from_bytes(data[2:start], "big")
        if not second & 0x80 or first & 0x70:
            return self._fail(_PROTOCOL_ERROR, "client frames are masked and bear no extension bits")
        if first & 0x08 and (size > _MOST_CONTROL_BYTES or not first & 0x80):
            return self._fail(_PROTOCOL_ERROR, f"a control frame is whole, of at most {_MOST_CONTROL_BYTES} bytes")
        if size + self._parts_bytes > self._most_bytes or len(self._parts) > _MOST_PARTS:
            return self._fail(_TOO_BIG, f"a message has at most {self._most_bytes} bytes")
        end = start + 4 + size
        if len(data) < end:
            return 0
        payload = _payload(data, start, end)
        if first == 0x80 | BINARY and not self._parts:  # the usual case
            self._hand_over(payload)
        else:
            self._unusual(first & 0x0F, bool(first & 0x80), payload)
        return end

    def _unusual(self, opcode: int, is_last: bool, payload: bytes) -> None:
        """Control frames and messages in parts."""
        if opcode == PING:
            self.transport.write(_frame(PONG, payload))
        elif opcode == CLOSE:
            self.close(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1000, "")
        elif opcode == TEXT:
            self._fail(_UNSUPPORTED, "messages are binary; for JSON use the HTTP routes, see /docs")
        elif opcode in (BINARY, CONTINUATION) and (opcode == CONTINUATION) == bool(self._parts):
            self._parts.append(payload)
            self._parts_bytes += len(payload)
            if is_last:
                message, self._parts, self._parts_bytes = b"".join(self._parts), [], 0
                self._hand_over(message)
        elif opcode != PONG:
            self._fail(_PROTOCOL_ERROR, f"a frame of kind {opcode} is out of place")

    def send_message(self, message: bytes) -> None:
        """One binary message, written at once where nothing waits before it; nothing on a connection that is over.

        The transport writes only when the callback has returned; a step's answer need not wait for that.
        """
        self._unanswered -= 1
        if self._is_held:
            self.loop.call_soon(self._release)
        if self.close_sent or self.disconnected or self.transport.is_closing() or self.is_lent:
            return
        frame = _frame(BINARY, message)
        if self._fd >= 0 and not self.transport.get_write_buffer_size():
            try:
                sent = os.write(self._fd, frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the connection is broken; connection_lost says so
            if sent == len(frame):
                return
            frame = frame[sent:]
        self.transport.write(frame)

    def lend(self) -> int:
        """Stop reading, and give the socket's descriptor to read and write by; -1 when it cannot be lent now."""
        busy = (
            self._waiting
            or self._parts
            or self._unanswered
            or self._is_held
            or self.close_sent
            or self.disconnected
            or self.transport.is_closing()
        )
        if self._fd < 0 or busy or self.transport.get_write_buffer_size():
            return -1
        self.transport.pause_reading()
        self.is_lent = True
        return self._fd

    def has_unread(self) -> bool:
        """Whether something has come that nobody has read: bytes, or the connection's end."""
        if self._fd < 0 or self.disconnected or self.transport.is_closing():
            return False
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(0))

    def take_back(self, unread: bytes, unsent: bytes) -> None:
        """Go on where a borrower left off."""
        self.is_lent = False
        if self.disconnected or self.transport.is_closing():
            return
        if unsent:
            self.transport.write(unsent)
        if self.writable.is_set():  # otherwise the client does not read, and is not read before it does
            self.transport.resume_reading()
        if unread:
            self.data_received(unread)

    def is_silent(self, for_s: float) -> bool:
        """Whether the client's machine has left its answers out for so long. (Nothing is asked of an idle one here.)"""
        connected = self.transport.get_extra_info("socket")
        if sys.platform != "linux" or connected is None or self.transport.is_closing():
            return False
        return unheard_s(connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES)) >= for_s

    def cut(self) -> None:
        """Cut the connection without a word, whoever else has it open; the client comes back."""
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._fd)) as held:
            held.shutdown(socket.SHUT_RDWR)
        self.transport.abort()

    def close(self, code: int, reason: str) -> None:
        """Close with a code; the application learns of it as a disconnect."""
        if self.close_sent or self.disconnected:
            return
        self.close_sent = True
        self.transport.write(_frame(CLOSE, code.to_bytes(2, "big") + reason.encode()[:120]))
        if self.transport.get_write_buffer_size():  # the client may never read what is before it
            self.loop.call_later(_CLOSE_S, self.transport.abort)
        self.transport.close()

    def _fail(self, code: int, reason: str) -> int:
        self.close(code, reason)
        return 0

    def pause_writing(self) -> None:
        """The client does not read: do not read from it either."""
        super().pause_writing()
        self._hold()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._release()


def _payload(data: bytearray, start: int, end: int) -> bytes:
    """What a frame bears whose head ends at `start`, before its mask."""
    key = data[start : start + 4]
    if end - start < _LARGE_BYTES:
        return unmasked(key, data[start + 4 : end])
    with memoryview(data) as view:
        unmask(key, view[start + 4 : end])
        return bytes(view[start + 4 : end])


def _frame(opcode: int, payload: bytes) -> bytes:
    return frame_head(opcode, len(payload)) + payload
