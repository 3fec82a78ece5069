"""The WebSocket protocol under the stream: the handshake by uvicorn and `websockets`, the messages by hand.

uvicorn's own class parses each frame in a generic parser, queues it for a coroutine, and pauses the
socket meanwhile: about 39 µs of a step, measured on a server under load. Here a whole masked message is unmasked and
handed to a callback at once, and an answer is one write (bench/step.py, row W1).
"""

from __future__ import annotations

import contextlib
import os
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
    unmasked,
)

__all__ = ["EXTENSION", "StreamProtocol"]

EXTENSION = "multiserverrl.connection"  # where the ASGI scope holds the protocol itself

_MOST_PARTS = 4096  # of one message
_TOO_BIG, _PROTOCOL_ERROR, _UNSUPPORTED = 1009, 1002, 1003


class StreamProtocol(WebSocketsSansIOProtocol):
    """One connection. After `begin`, each binary message goes to the callback; `send_message` answers."""

    _on_message: Callable[[bytes], None] | None = None
    _waiting: bytearray
    _parts: list[bytes]
    _parts_bytes = 0
    _is_lent = False
    _fd = -1  # of a plain socket; TLS goes through the transport

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
        if not waiting and not self._parts:
            payload, end = next_message(data)
            if payload is not None and end == len(data) and len(payload) <= self.config.ws_max_size:
                self._on_message(payload)
                return
        waiting += data
        while waiting and (end := self._one_frame(waiting)):
            del waiting[:end]
        self._waiting = waiting if not self.close_sent else bytearray()

    def _one_frame(self, data: bytes | bytearray) -> int:
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
        if size + self._parts_bytes > self.config.ws_max_size or len(self._parts) > _MOST_PARTS:
            return self._fail(_TOO_BIG, f"a message has at most {self.config.ws_max_size} bytes")
        end = start + 4 + size
        if len(data) < end:
            return 0
        payload = unmasked(data[start : start + 4], data[start + 4 : end])
        if first == 0x80 | BINARY and not self._parts:  # the usual case
            assert self._on_message is not None
            self._on_message(payload)
        else:
            self._unusual(first & 0x0F, bool(first & 0x80), payload)
        return end

    def _unusual(self, opcode: int, is_last: bool, payload: bytes) -> None:
        """Control frames and messages in parts."""
        if opcode == PING:
            self.transport.write(_frame(PONG, payload[:125]))
        elif opcode == CLOSE:
            self.close(int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1000, "")
        elif opcode == TEXT:
            self._fail(_UNSUPPORTED, "messages are binary; for JSON use the HTTP routes, see /docs")
        elif opcode in (BINARY, CONTINUATION) and (opcode == CONTINUATION) == bool(self._parts):
            self._parts.append(payload)
            self._parts_bytes += len(payload)
            if is_last:
                message, self._parts, self._parts_bytes = b"".join(self._parts), [], 0
                assert self._on_message is not None
                self._on_message(message)
        elif opcode != PONG:
            self._fail(_PROTOCOL_ERROR, f"a frame of kind {opcode} is out of place")

    def send_message(self, message: bytes) -> None:
        """One binary message, written at once where nothing waits before it; nothing on a connection that is over.

        The transport writes only when the callback has returned; a step's answer need not wait for that.
        """
        if self.close_sent or self.disconnected or self.transport.is_closing() or self._is_lent:
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
        busy = self._waiting or self._parts or self.close_sent or self.disconnected or self.transport.is_closing()
        if self._fd < 0 or busy or self.transport.get_write_buffer_size():
            return -1
        self.transport.pause_reading()
        self._is_lent = True
        return self._fd

    def take_back(self, unread: bytes, unsent: bytes) -> None:
        """Go on where a borrower left off."""
        self._is_lent = False
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
        self.transport.close()

    def _fail(self, code: int, reason: str) -> int:
        self.close(code, reason)
        return 0

    def pause_writing(self) -> None:
        """The client does not read: do not read from it either."""
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._is_lent:
            self.transport.resume_reading()


def _frame(opcode: int, payload: bytes) -> bytes:
    return frame_head(opcode, len(payload)) + payload
