"""A server in the place of a socket: what it sends was written before; then it is gone. For clients alone."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from typing import Any

from multiserverrl.client.transport import Address
from multiserverrl.errors import SessionLost

ACCEPT = b"{accept}"  # in a script: what answers the client's Sec-WebSocket-Key
_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_NOWHERE = os.open(os.devnull, os.O_RDONLY)


class ScriptedSocket:
    """As much of a socket as a client's connection uses."""

    def __init__(self, script: bytes) -> None:
        self._script, self._at = script, 0

    def send(self, content: bytes) -> int:
        self.sendall(content)
        return len(content)

    def sendall(self, content: bytes) -> None:
        _, found, rest = content.partition(b"Sec-WebSocket-Key: ")
        if found:
            accept = base64.b64encode(hashlib.sha1(rest.partition(b"\r\n")[0] + _SALT).digest())
            self._script = self._script.replace(ACCEPT, accept)

    def recv(self, size: int) -> bytes:
        part = self._script[self._at : self._at + size]
        self._at += len(part)
        return part

    def recv_into(self, buffer: Any) -> int:
        part = self.recv(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def fileno(self) -> int:
        return _NOWHERE

    def getpeername(self) -> Any:
        raise OSError("there is nobody")

    def setsockopt(self, *_: Any) -> None: ...

    def settimeout(self, _: Any) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class ScriptedAddress(Address):
    """Where a scripted server is: the first to connect finds it, and nobody after."""

    scripts: tuple[list[bytes], ...] = ()

    @classmethod
    def of(cls, script: bytes, *, handshake: bool = True, headers: dict[str, str] | None = None) -> ScriptedAddress:
        lines = [b"HTTP/1.1 101 OK", b"Sec-WebSocket-Accept: " + ACCEPT]
        lines += [f"{name}: {value}".encode() for name, value in (headers or {}).items()]
        head = b"\r\n".join([*lines, b"", b""]) if handshake else b""
        return cls("http", "scripted", 1, None, ([head + script],))

    def connect(self, timeout_s: float) -> Any:
        if not self.scripts[0]:
            raise SessionLost("the script is over")
        return ScriptedSocket(self.scripts[0].pop())
