"""A TCP relay that breaks what passes through it, as told while it runs.

It stands between a client and a server and counts the bytes of each direction ("request": from the
client, "reply": from the server). Everything happens in one thread, owned by the `with` block.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from dataclasses import dataclass, field
from types import TracebackType
from urllib.parse import urlsplit

__all__ = ["Cut", "Flip", "Relay"]

_CHUNK_BYTES = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST


@dataclass
class Cut:
    """Cut a connection once `after_bytes` more bytes of `direction` were passed on; with 0, when the next one comes.

    The byte that comes too late is not passed on: `Cut("reply", 0)` delivers a request and loses its answer.
    `how`: "fin", "rst", or "half": that direction alone is closed, the other goes on until either end closes it.
    """

    direction: str  # "request" or "reply"
    after_bytes: int
    how: str = "fin"


@dataclass
class Flip:
    """Flip one bit: the nth (from 0, the lowest of each byte first) that `direction` passes on from now on."""

    direction: str
    bit: int


@dataclass(eq=False)
class _Pair:
    """One connection through the relay."""

    client: socket.socket
    server: socket.socket
    requested: bytearray = field(default_factory=bytearray)  # what the client sent, as passed on

    def other(self, end: socket.socket) -> socket.socket:
        return self.server if end is self.client else self.client


class Relay:
    """Relays to the server at `url` from its own `url`.

    `piece_bytes` passes everything on in pieces of so many bytes; `refusing` resets new connections at once.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self._target = (parts.hostname, parts.port)
        self.refusing = False
        self.piece_bytes = 0
        self.connections = 0  # accepted so far
        self.cuts_done = self.flips_done = 0
        self.passed_bytes = {"request": 0, "reply": 0}
        self._cut: Cut | None = None
        self._flip: Flip | None = None
        self._pairs: list[_Pair] = []
        self._requested: list[bytearray] = []
        self._lock = threading.Lock()
        self._flowing = threading.Event()
        self._flowing.set()
        self._is_closing = False
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Relay:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="relay")
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closing = True
        self._flowing.set()
        self._wake_write.send(b".")
        self._thread.join()
        for pair in list(self._pairs):
            self._end(pair, "fin")
        self._selector.close()
        for end in (self._listener, self._wake_read, self._wake_write):
            end.close()

    def cut(self, cut: Cut | None) -> None:
        """Arm one cut; it counts from now on, over all connections, and happens once. None disarms it."""
        with self._lock:
            self._cut = cut

    def flip(self, flip: Flip) -> None:
        """Arm one flip; it counts from now on, over all connections, and happens once."""
        with self._lock:
            self._flip = flip

    def stall(self) -> None:
        """Pass nothing on, and keep the connections open, until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        """Go on after `stall`; nothing was lost."""
        self._flowing.set()

    def cut_now(self, how: str = "fin") -> None:
        """Cut every connection."""
        with self._lock:
            for pair in list(self._pairs):
                self._end(pair, how)

    def requested(self, connection: int = -1) -> bytes:
        """What the client sent on its nth connection (default the last)."""
        with self._lock:
            return bytes(self._requested[connection])

    def replay(self, content: bytes, until: bytes, timeout_s: float = 10.0) -> bytes:
        """Send the same bytes to the server on another connection; its answer, as far as `until` or the end.

        What follows the first blank line (a WebSocket's messages) waits for the answer to what stands before it.
        """
        head, blank, rest = content.partition(b"\r\n\r\n")
        with socket.create_connection(self._target, timeout_s) as again:
            again.sendall(head + blank)
            upgraded = _received(again, b"\r\n\r\n") if b"Upgrade: websocket" in head else b""
            again.sendall(rest)
            return upgraded + _received(again, until)

    def _run(self) -> None:
        while not self._is_closing:
            for key, _ in self._selector.select():
                self._flowing.wait()
                with self._lock:
                    self._ready(key)

    def _ready(self, key: selectors.SelectorKey) -> None:
        end = key.fileobj
        assert isinstance(end, socket.socket)
        if end is self._listener:
            self._accept()
        elif end is not self._wake_read and key.data in self._pairs:
            self._pass_on(key.data, end)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self.connections += 1
        if self.refusing:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            client.close()
            return
        try:
            server = socket.create_connection(self._target, 5.0)
        except OSError:
            client.close()
            return
        pair = _Pair(client, server)
        self._pairs.append(pair)
        self._requested.append(pair.requested)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(end, selectors.EVENT_READ, pair)

    def _pass_on(self, pair: _Pair, end: socket.socket) -> None:
        try:
            content = end.recv(_CHUNK_BYTES)
        except OSError:
            content = b""
        if not content:
            self._end(pair, "fin")
            return
        direction = "request" if end is pair.client else "reply"
        allowed, is_cut = self._allowed(direction, len(content))
        content = self._flipped(direction, content[:allowed])
        self.passed_bytes[direction] += len(content)
        if direction == "request":
            pair.requested += content
        try:
            self._send(pair.other(end), content)
        except OSError:
            self._end(pair, "fin")
            return
        if is_cut is not None and is_cut.how == "half":
            self._close_half(pair, end)
        elif is_cut is not None:
            self._end(pair, is_cut.how)

    def _allowed(self, direction: str, arrived: int) -> tuple[int, Cut | None]:
        """How many of the bytes that arrived may pass, and the cut that comes behind them."""
        cut = self._cut
        if cut is None or cut.direction != direction:
            return arrived, None
        if arrived < cut.after_bytes:
            cut.after_bytes -= arrived
            return arrived, None
        self._cut = None
        self.cuts_done += 1
        return cut.after_bytes, cut

    def _flipped(self, direction: str, content: bytes) -> bytes:
        flip = self._flip
        if flip is None or flip.direction != direction:
            return content
        byte, bit = divmod(flip.bit, 8)
        if byte >= len(content):
            flip.bit -= 8 * len(content)
            return content
        self._flip = None
        self.flips_done += 1
        return content[:byte] + bytes((content[byte] ^ 1 << bit,)) + content[byte + 1 :]

    def _send(self, end: socket.socket, content: bytes) -> None:
        size = self.piece_bytes or len(content)
        for start in range(0, len(content), size or 1):
            end.sendall(content[start : start + size])

    def _close_half(self, pair: _Pair, end: socket.socket) -> None:
        """Nothing more passes from this end to the other, which is told so."""
        self._selector.unregister(end)
        with contextlib.suppress(OSError):
            pair.other(end).shutdown(socket.SHUT_WR)

    def _end(self, pair: _Pair, how: str) -> None:
        if pair not in self._pairs:
            return
        self._pairs.remove(pair)
        for end in (pair.client, pair.server):
            with contextlib.suppress(KeyError):  # closed by half before
                self._selector.unregister(end)
            with contextlib.suppress(OSError):
                if how == "rst":
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                else:
                    end.shutdown(socket.SHUT_WR)
            end.close()


def _received(end: socket.socket, until: bytes) -> bytes:
    answered = b""
    while until not in answered:
        part = end.recv(_CHUNK_BYTES)
        if not part:
            break
        answered += part
    return answered
