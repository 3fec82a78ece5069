"""Sockets: one WebSocket connection to an env server, blocking, one binary message each way.

A message arrives in a fresh buffer that belongs to the caller, in one system call when it is small.
No retries here: what breaks is raised, and the link decides (see `link`).
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import random
import select
import socket
import ssl
import struct
import time

from multiserverrl.client.address import Address
from multiserverrl.client.fetching import checked_json, fetch_json
from multiserverrl.client.patience import ConnectionEnded, PatientSocket
from multiserverrl.errors import ServerUnreachable, WireError

__all__ = ["Address", "Connection", "ConnectionEnded", "Socket", "fetch_json", "is_same_host"]

Socket = socket.socket
STREAM_PATH = "/v1/stream"
MAX_MESSAGE_BYTES = 1 << 30  # no length beyond it is believed
_ACCEPT_SALT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_CHUNK_BYTES = 1 << 16
_EAGER_BYTES = 1 << 24  # room for so much is made at once; for more as it comes, whatever was announced
_MOST_PARTS = 4096  # of one message, and control frames before its end
_LEAST_ROOM_BYTES = 1 << 12
_AWAKE_NS = 150_000  # as long as an env worker stays awake for us (serve --awake-us)


def is_same_host(connected: socket.socket) -> bool:
    """Whether the other end is this machine, or seems to be (an SSH tunnel's is)."""
    try:
        peer, own = connected.getpeername()[0], connected.getsockname()[0]
    except OSError:  # over already; whoever uses it will see
        return False
    return bool(peer == own) or ipaddress.ip_address(peer.partition("%")[0]).is_loopback


class Connection(PatientSocket):
    """One WebSocket. `send` and `receive` raise OSError (ConnectionEnded among them) when it breaks.

    `connected`: the socket, where there is one already. `headers`: further ones for the handshake.
    """

    def __init__(
        self,
        address: Address,
        timeout_s: float,
        connected: socket.socket | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(connected or address.connect(timeout_s), timeout_s)
        self.headers: dict[str, str] = {}  # of the server's answer to the handshake
        self._waiting = bytearray()
        self._head_bytes, self._room = 4, _LEAST_ROOM_BYTES
        self._key = random.Random(os.urandom(16))
        self._poll = None if isinstance(self._socket, ssl.SSLSocket) else _poll_of(self._socket)
        self._is_awake = False  # the last answer came within _AWAKE_NS
        try:
            self._upgrade(address, headers or {})
        except BaseException:
            self._socket.close()
            raise

    def send(self, message: bytes) -> None:
        """One binary message."""
        self._send(self._frame(_BINARY, message))

    def receive(self) -> memoryview:
        """The next binary message, in a buffer of its own; pings are answered on the way."""
        if not self._waiting:
            only = self._receive_only()
            if only is not None:
                return only
        parts: list[memoryview] = []
        self._begin_late()
        for _ in range(_MOST_PARTS):
            opcode, is_last, payload = self._next_frame(sum(map(len, parts)))
            if opcode in (_BINARY, _CONTINUATION):
                if is_last and not parts:
                    return payload
                parts.append(payload)
                if is_last:
                    return memoryview(bytearray(b"".join(parts)))
            elif opcode == _PING:
                self._send(self._frame(_PONG, bytes(payload)))
            elif opcode == _CLOSE:
                code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005
                raise ConnectionEnded(
                    f"the server closed the connection: {bytes(payload[2:]).decode(errors='replace')}", code
                )
            elif opcode != _PONG:
                raise ConnectionEnded(f"a WebSocket frame of unknown kind {opcode}")
        raise ConnectionEnded(f"a message in more than {_MOST_PARTS} parts is not waited for")

    def _receive_only(self) -> memoryview | None:
        """The usual case: just one whole message comes, into a buffer that is given away; arrays in it are aligned.

        Anything else is left in `_waiting`, and the answer is None. The room and the place for the head are
        guessed from the message before.
        """
        buffer, begin = bytearray(self._room), 8 - self._head_bytes
        began = time.monotonic_ns()
        if self._is_awake:
            self._stay_awake(began + _AWAKE_NS)
        try:
            count = self._socket.recv_into(memoryview(buffer)[begin:])
        except (BlockingIOError, TimeoutError):
            count = self._read_late(memoryview(buffer)[begin:])
        end = begin + self._received(count)
        self._is_awake = self._poll is not None and time.monotonic_ns() - began < _AWAKE_NS
        start, size = _head(buffer, begin, end)
        if not start or begin + start + size != end:
            self._waiting = buffer[begin:end]
            return None
        self._head_bytes, self._room = start, max(_LEAST_ROOM_BYTES, size + size // 8)
        payload = memoryview(buffer)[begin + start : end]
        return payload if begin + start == 8 else memoryview(bytearray(payload))

    def _stay_awake(self, until_ns: int) -> None:
        """Wait for the answer without sleeping, as the last one came so soon; who else wants the core gets it.

        A process that sleeps is late to wake up (45 µs on a virtual machine), longer than a small step takes.
        """
        assert self._poll is not None
        poll, now = self._poll.poll, time.monotonic_ns
        while not poll(0) and now() < until_ns:
            os.sched_yield()

    def has_message(self) -> bool:
        """Whether some of a message is here already, so that `receive` would wait for the rest of it at most."""
        return bool(self._waiting) or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0)

    def close(self) -> None:
        """Say goodbye if that costs nothing, and close the socket."""
        try:
            self._socket.settimeout(0.5)
            self._socket.sendall(self._frame(_CLOSE, b"\x03\xe8"))
        except (OSError, ValueError):
            pass
        self._socket.close()

    def drop(self) -> None:
        """Close the socket without a word (it is broken, or belongs to the parent of a fork)."""
        self._socket.close()

    def _frame(self, opcode: int, payload: bytes) -> bytes:
        """RFC 6455, 5.2: final, masked with a fresh key."""
        size = len(payload)
        key = self._key.getrandbits(32).to_bytes(4, "little")
        if size < 126:
            head = bytes((0x80 | opcode, 0x80 | size))
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)
        repeated = (key * (size // 4 + 1))[:size]
        masked = int.from_bytes(payload, "little") ^ int.from_bytes(repeated, "little")
        return head + key + masked.to_bytes(size, "little")

    def _next_frame(self, before_bytes: int) -> tuple[int, bool, memoryview]:
        """(opcode, is it the last part, payload); so many bytes of its message came before it."""
        self._fill(2)
        first, second = self._waiting[0], self._waiting[1]
        size, start = second & 0x7F, 2
        if second & 0x80 or first & 0x70:
            raise ConnectionEnded("the server broke the WebSocket protocol")
        if size >= 126:
            start = 4 if size == 126 else 10
            self._fill(start)
            size = int.from_bytes(self._waiting[2:start], "big")
        if size + before_bytes > MAX_MESSAGE_BYTES:
            raise ConnectionEnded(f"a message of {size + before_bytes} bytes is not believed")
        payload = self._take(start, size)
        return first & 0x0F, bool(first & 0x80), payload

    def _take(self, start: int, size: int) -> memoryview:
        """The payload behind a head of `start` bytes, in a buffer of its own."""
        waiting = self._waiting
        here = len(waiting) - start
        if here >= size:
            payload = memoryview(waiting[start : start + size])
            del waiting[: start + size]
            return payload
        whole = bytearray(min(size, max(_EAGER_BYTES, here)))
        whole[:here] = memoryview(waiting)[start:]
        self._waiting = bytearray()
        got = here
        while True:
            with memoryview(whole) as view:
                while got < len(whole):
                    got += self._read_into(view[got:])
            if got == size:
                return memoryview(whole)
            whole += bytes(min(size - got, got))

    def _fill(self, size: int) -> None:
        while len(self._waiting) < size:
            room = memoryview(bytearray(_CHUNK_BYTES))
            self._waiting += room[: self._read_into(room)]

    def _upgrade(self, address: Address, further: dict[str, str]) -> None:
        """RFC 6455, 4.1; a refusal is raised as the error that its JSON names."""
        nonce = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Host": address.netloc,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": nonce,
            "Sec-WebSocket-Version": "13",
            **address.headers(),
            **further,
        }
        lines = [f"GET {STREAM_PATH} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self._send("\r\n".join(lines).encode("latin-1"))
        while b"\r\n\r\n" not in self._waiting:
            if len(self._waiting) > _CHUNK_BYTES:
                raise WireError(f"{address} does not answer as an env server does")
            try:
                self._fill(len(self._waiting) + 1)
            except ConnectionError as error:
                raise ServerUnreachable(f"{address} hung up without an answer{address.tls_hint}") from error
        head, _, rest = bytes(self._waiting).partition(b"\r\n\r\n")
        status, _, header_text = head.decode("latin-1").partition("\r\n")
        self.headers = found = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in header_text.split("\r\n"))
        }
        if " 101 " not in f"{status} ":
            self._raise_refusal(address, status, found, rest)
        accept = base64.b64encode(hashlib.sha1(f"{nonce}{_ACCEPT_SALT}".encode()).digest()).decode()
        if found.get("sec-websocket-accept") != accept:
            raise WireError(f"{address} broke the WebSocket handshake")
        self._waiting = bytearray(rest)

    def _raise_refusal(self, address: Address, status: str, headers: dict[str, str], rest: bytes) -> None:
        self._waiting = bytearray(rest)
        size = headers.get("content-length", "0")
        self._fill(min(_whole_number(size, 0), _CHUNK_BYTES))
        number = status.split(" ")[1] if " " in status else ""
        checked_json(bytes(self._waiting), _whole_number(number, 500), address)
        raise WireError(f"{address} does not speak the env servers' WebSocket protocol (it answered {status!r})")


def _whole_number(text: str, otherwise: int) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else otherwise


def _poll_of(connected: socket.socket) -> select.poll | None:
    if not hasattr(os, "sched_yield") or not hasattr(select, "poll"):
        return None
    poll = select.poll()
    poll.register(connected, select.POLLIN)
    return poll


def _head(buffer: bytearray, begin: int, end: int) -> tuple[int, int]:
    """(bytes of the head, bytes of the payload) of a whole binary message's frame at `begin`; (0, 0) for another."""
    if end - begin < 2 or buffer[begin] != 0x80 | _BINARY or buffer[begin + 1] == 127:
        return 0, 0
    size = buffer[begin + 1]
    if size < 126:
        return 2, size
    return (4, buffer[begin + 2] << 8 | buffer[begin + 3]) if size == 126 and end - begin >= 4 else (0, 0)
