"""One client of the fake: a plain GET, or a WebSocket (the section Transport of docs/protocol.md, and RFC 6455)."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import secrets
import socket
import struct
import threading
import time
from typing import Any, Protocol

from multiserverrl.testing.fake.frames import Refusal, framed, parsed
from multiserverrl.testing.fake.session import FakeSession

__all__ = ["TAKEN_OVER", "Connection", "Serves"]

MOST_BYTES = 1 << 20  # of one message
HTTP_STATUS = {"unauthorized": "401 Unauthorized", "not_allowed": "403 Forbidden", "misuse": "404 Not Found"}
BINARY, TEXT, CLOSE, PING, PONG = 0x2, 0x1, 0x8, 0x9, 0xA
TAKEN_OVER, NO_MESSAGE, UNSUPPORTED = 4001, 4002, 1003


class Serves(Protocol):
    """What a connection asks of its server."""

    token: str
    lock: threading.Lock

    def answer_get(self, path: str) -> dict[str, Any]:
        """The JSON of a plain GET."""

    def begin(self, frame: bytes, connection: Connection) -> bytes:
        """The answer to the first message."""


class Connection:
    """One client: plain HTTP until it asks for the WebSocket."""

    def __init__(self, server: Serves, connected: socket.socket) -> None:
        self.server, self._socket = server, connected
        self.session: FakeSession | None = None
        self._thread = threading.Thread(target=self._run, name="fake connection")
        self._thread.start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _run(self) -> None:
        with self._socket, contextlib.suppress(OSError, EOFError):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._shake_hands():
                self._answer_messages()
        with self.server.lock:
            if self.session is not None and self.session.holder is self:
                self.session.holder, self.session.left_at = None, time.monotonic()

    # -- HTTP

    def _shake_hands(self) -> bool:
        """Whether a WebSocket began; a plain GET is answered, and the connection over."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.exactly(1)
        request, *lines = head.decode("latin-1").strip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, path, _ = request.split(" ")
        try:
            self.check_headers(headers)
            if method != "GET":
                raise Refusal("misuse", f"there is no {method} {path} here")
            if path == "/v1/stream" and headers.get("upgrade", "").lower() == "websocket":
                self._socket.sendall(upgraded(headers["sec-websocket-key"]))
                return True
            with self.server.lock:
                status, told = "200 OK", self.server.answer_get(path)
        except Refusal as refusal:
            status, told = HTTP_STATUS[refusal.code], {"error": refusal.code, "message": refusal.message}
        content = json.dumps(told).encode()
        lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(content)}"]
        self._socket.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode() + content)
        return False

    def check_headers(self, headers: dict[str, str]) -> None:
        """The token, and against foreign web pages."""
        origin, host = headers.get("origin"), headers.get("host", "")
        if host.rpartition(":")[0] not in ("127.0.0.1", "localhost") or origin not in (None, f"http://{host}"):
            raise Refusal("not_allowed", "requests to another host, or from pages of other sites, are refused")
        shown = headers.get("authorization", "").encode()
        if self.server.token and not secrets.compare_digest(shown, f"Bearer {self.server.token}".encode()):
            raise Refusal("unauthorized", "this server wants its token")

    # -- WebSocket

    def _answer_messages(self) -> None:
        while (message := self._message()) is not None:
            with self.server.lock:  # who repeats a request that runs waits here for its answer
                try:
                    answer = self._answer(message)
                except Refusal as refusal:
                    if self.session is not None:
                        return self.close(NO_MESSAGE, refusal.message)
                    answer = framed(["refused", 0, 0, refusal.code, refusal.message, "", False])
                self.send(BINARY, answer)
        return None

    def _answer(self, frame: bytes) -> bytes:
        if self.session is None:
            return self.server.begin(frame, self)
        if self.session.holder is not self:
            (_, lane, seq, *_), _ = parsed(frame)
            return framed(["refused", lane, seq, "session_taken", "a newer connection took it over", "", False])
        return self.session.perform(frame)

    def _message(self) -> bytes | None:
        """The next binary message; None when the connection is over."""
        message = b""
        while True:
            opcode, is_last, payload = self.part()
            if opcode == PING:
                self.send(PONG, payload)
            elif opcode in (CLOSE, TEXT) or len(message) + len(payload) > MOST_BYTES:
                self.close(1000 if opcode == CLOSE else UNSUPPORTED, "")
                return None
            elif opcode != PONG:
                message += payload
                if is_last:
                    return message

    def part(self) -> tuple[int, bool, bytes]:
        """One frame of RFC 6455, unmasked."""
        first, second = self.exactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self.exactly(2 if size == 126 else 8), "big")
        if not second & 0x80 or size > MOST_BYTES:
            raise EOFError("a frame that is not masked, or too large")
        key, payload = self.exactly(4), self.exactly(size)
        return first & 0x0F, bool(first & 0x80), bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))

    def exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            part = self._socket.recv(size - len(found))
            if not part:
                raise EOFError
            found += part
        return found

    def send(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        head = bytes((0x80 | opcode, size)) if size < 126 else struct.pack("!BBH", 0x80 | opcode, 126, size)
        self._socket.sendall(head + payload)

    def close(self, code: int, reason: str) -> None:
        """Say why, and end."""
        with contextlib.suppress(OSError):
            self.send(CLOSE, code.to_bytes(2, "big") + reason.encode())
            self._socket.shutdown(socket.SHUT_RDWR)


def upgraded(key: str) -> bytes:
    """RFC 6455, 4.2.2."""
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}", "", ""]).encode()
