"""A socket whose waits are bounded, and tell a network that is gone from an env that is slow.

The system asks the server's machine once a second whether the connection stands, and that machine's system answers
whatever its processes do. Nothing of this is on a step's path: it begins when an answer is late.
"""

from __future__ import annotations

import socket
import ssl
import struct
import sys
import time

from multiserverrl.errors import PeerError
from multiserverrl.wire.tcp import INFO_BYTES, unheard_s

__all__ = ["LOOK_S", "SILENT_S", "ConnectionEnded", "PatientSocket", "keep_asking"]

LOOK_S = 0.5  # how often to look while an answer is awaited
_LEAST_BYTES_PER_S = 1024  # of a message that takes longer than the time-out
SILENT_S = 3.0  # then the connection is made anew; TCP's own repeats would come ever more seldom
_PROBES = (("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 127))  # unanswered, they end it in 2 minutes


class ConnectionEnded(PeerError, ConnectionError):
    """The WebSocket was closed; `close_code` is what the server said, 1006 when it said nothing."""

    code = "connection_ended"

    def __init__(self, message: str, close_code: int = 1006) -> None:
        super().__init__(message)
        self.close_code = close_code


class PatientSocket:
    """Reads and writes that may take long, in slices of LOOK_S; raises OSError when it breaks."""

    def __init__(self, connected: socket.socket, timeout_s: float) -> None:
        self._socket = connected
        self.set_timeout(timeout_s)
        self._begin_late()

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def set_timeout(self, timeout_s: float) -> None:
        """How long one `receive` may wait for the next bytes; a TimeoutError says that it was longer.

        A message that comes slowly, but does come, may take a second more for each KiB of it.
        """
        self._timeout_s, look_s = timeout_s, min(LOOK_S, timeout_s)
        if isinstance(self._socket, ssl.SSLSocket) or sys.platform == "win32":
            self._socket.settimeout(look_s)
            return
        # the kernel's own time-out saves a poll() on every receive
        self._socket.settimeout(None)
        value = struct.pack("ll", int(look_s), int(look_s % 1 * 1e6))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def look_out(self, waited_s: float, silent_s: float = SILENT_S) -> None:
        """Whether to wait on; TimeoutError when it was long enough, ConnectionEnded when the network is gone."""
        if waited_s >= self._timeout_s:
            raise TimeoutError(f"nothing came for {self._timeout_s:g} s")
        if _unheard_s(self._socket) >= silent_s:
            raise ConnectionEnded(f"the network is gone: the server's machine has not answered for {silent_s:g} s")

    def _send(self, frame: bytes) -> None:
        try:
            sent = self._socket.send(frame)
        except (BlockingIOError, TimeoutError):
            sent = 0
        if sent < len(frame):
            self._send_late(memoryview(frame)[sent:])

    def _send_late(self, rest: memoryview) -> None:
        """More than the system takes at once."""
        began = time.monotonic()
        while rest:
            self.look_out(time.monotonic() - began)
            try:
                rest = rest[self._socket.send(rest) :]
                began = time.monotonic()
            except (BlockingIOError, TimeoutError):
                pass

    def _read_late(self, room: memoryview) -> int:
        """Bytes that did not come within LOOK_S."""
        began = time.monotonic() - min(LOOK_S, self._timeout_s)
        while True:
            self.look_out(time.monotonic() - began)
            try:
                return self._socket.recv_into(room)
            except (BlockingIOError, TimeoutError):
                pass

    def _read_into(self, room: memoryview) -> int:
        try:
            count = self._socket.recv_into(room)
        except (BlockingIOError, TimeoutError):
            count = self._read_late(room)
        self._got_bytes += self._received(count)
        if time.monotonic() - self._began_s > self._timeout_s + self._got_bytes / _LEAST_BYTES_PER_S:
            raise TimeoutError("what comes of an answer comes too slowly")
        return count

    def _begin_late(self) -> None:
        """A message that does not come whole at once is being read from now on."""
        self._began_s, self._got_bytes = time.monotonic(), 0

    @staticmethod
    def _received(count: int) -> int:
        if not count:
            raise ConnectionEnded("the connection was cut")
        return count


def keep_asking(connected: socket.socket) -> None:
    """Let the system ask the other machine each second that nothing comes from it."""
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _PROBES:
        if hasattr(socket, name):
            connected.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _unheard_s(connected: socket.socket) -> float:
    """For how long the other machine has owed an answer; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0.0
    return unheard_s(connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_BYTES))
