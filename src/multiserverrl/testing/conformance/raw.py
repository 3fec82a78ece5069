"""A WebSocket that can misbehave: halves of messages, messages in parts, text, sudden ends. Blocking, no retries.

On purpose not `client.transport`: what is sent here no client of ours would send.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import socket
import struct

from multiserverrl.client.transport import STREAM_PATH, Address, ConnectionEnded
from multiserverrl.errors import WireError, error_for

__all__ = ["BINARY", "PING", "TEXT", "RawSocket"]

_CONTINUATION, TEXT, BINARY, _CLOSE, PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_ACCEPT_SALT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST
_MOST_BYTES = 1 << 28


class RawSocket:
    """One connection, its handshake made. A refusal of the handshake is raised as the error that its JSON names."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        self._socket = address.connect(timeout_s)
        self._socket.settimeout(timeout_s)
        self._waiting = b""
        self.num_pongs = 0
        try:
            self._shake_hands(address)
        except BaseException:
            self._socket.close()
            raise

    def _shake_hands(self, address: Address) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {STREAM_PATH} HTTP/1.1", f"Host: {address.netloc}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in address.headers().items()), "", "",
        ]  # fmt: skip
        self.send_bytes("\r\n".join(lines).encode("latin-1"))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        status, *found = head.decode("latin-1").strip().split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in found)}
        if " 101 " not in f"{status} ":
            self._raise_refusal(status, headers)
        accept = base64.b64encode(hashlib.sha1(f"{key}{_ACCEPT_SALT}".encode()).digest()).decode()
        if headers.get("sec-websocket-accept") != accept:
            raise WireError(f"the handshake's Sec-WebSocket-Accept is wrong: {headers.get('sec-websocket-accept')}")

    def _raise_refusal(self, status: str, headers: dict[str, str]) -> None:
        size = headers.get("content-length", "0")
        content = self._exactly(min(int(size) if size.isdecimal() else 0, 1 << 16))
        try:
            told = json.loads(content)
            raise error_for(str(told["error"]), str(told["message"]))
        except (ValueError, LookupError, TypeError) as error:
            raise WireError(f"the handshake was answered with {status!r}, and no JSON that says why") from error

    @staticmethod
    def framed(payload: bytes, opcode: int = BINARY, *, is_last: bool = True) -> bytes:
        """The bytes of one part of a message, masked."""
        key, size = os.urandom(4), len(payload)
        head = bytes((opcode | 0x80 * is_last,))
        if size < 126:
            head += bytes((0x80 | size,))
        else:
            head += struct.pack("!BH", 0xFE, size) if size < 1 << 16 else struct.pack("!BQ", 0xFF, size)
        repeated = (key * (size // 4 + 1))[:size]
        masked = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
        return head + key + masked.to_bytes(size, "big")

    def set_timeout(self, timeout_s: float) -> None:
        """How long to wait for the next bytes; a TimeoutError says that it was longer."""
        with contextlib.suppress(OSError):  # it was cut
            self._socket.settimeout(timeout_s)

    def send(self, message: bytes) -> None:
        """One binary message."""
        self.send_bytes(self.framed(message))

    def send_in_parts(self, message: bytes) -> None:
        """One binary message in three parts, with a ping between them."""
        third = max(1, len(message) // 3)
        self.send_bytes(self.framed(message[:third], is_last=False))
        self.send_bytes(self.framed(b"are you there", PING))
        self.send_bytes(self.framed(message[third : 2 * third], _CONTINUATION, is_last=False))
        self.send_bytes(self.framed(message[2 * third :], _CONTINUATION))

    def send_bytes(self, content: bytes) -> None:
        """Whatever they are."""
        self._socket.sendall(content)

    def receive(self) -> bytes:
        """The next binary message; ConnectionEnded bears the close code."""
        message = b""
        while True:
            opcode, is_last, payload = self._part()
            if opcode == _CLOSE:
                code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
                raise ConnectionEnded(f"closed with {code} {payload[2:].decode(errors='replace')}", code)
            if opcode == PING:
                self.send_bytes(self.framed(payload, _PONG))
            elif opcode == _PONG:
                self.num_pongs += 1
            elif opcode in (BINARY, _CONTINUATION):
                message += payload
                if is_last:
                    return message
            else:
                raise WireError(f"a WebSocket frame of kind {opcode} came; answers are binary")

    def _part(self) -> tuple[int, bool, bytes]:
        first, second = self._exactly(2)
        size = second & 0x7F
        if size > 125:
            size = int.from_bytes(self._exactly(2 if size == 126 else 8), "big")
        if second & 0x80 or first & 0x70 or size > _MOST_BYTES:
            raise WireError("a WebSocket frame that is masked, bears extension bits, or is too large")
        return first & 0x0F, bool(first & 0x80), self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        while len(self._waiting) < size:
            part = self._socket.recv(1 << 16)
            if not part:
                raise ConnectionEnded("the connection was cut without a word")
            self._waiting += part
        found, self._waiting = self._waiting[:size], self._waiting[size:]
        return found

    def cut(self, how: str = "fin") -> None:
        """End it without a WebSocket close; "rst" also without a TCP one."""
        with contextlib.suppress(OSError):
            if how == "rst":
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self._socket.close()
