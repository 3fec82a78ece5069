"""How much a client may take: connections, sessions, and the bytes and the time of one HTTP request.

Counting alone: what is read and written, and the clock, are those of `accepting` and `httplimits`.
"""

from __future__ import annotations

import enum
from collections import Counter

from multiserverrl.errors import MultiServerRLError, ServerFull, WireError
from multiserverrl.server.config import ServerConfig
from multiserverrl.settings import flag_name

__all__ = ["HeadTooLarge", "Pace", "Phase", "Places", "RequestMeter", "TooLarge", "TooSlow"]

LEAST_BYTES_PER_S = 1 << 16  # a body that comes as fast as this has more time than --body-s
_MOST_PIPELINED = 8  # requests that wait for the answer before them
_FRAMING = 8  # bytes on the wire for each of a body, at most: chunks of one byte have 6


class TooLarge(WireError):
    """A body beyond --max-message-bytes."""

    code = "too_large"
    http_status = 413


class HeadTooLarge(WireError):
    """A request's head beyond --max-head-bytes or --max-headers."""

    code = "head_too_large"
    http_status = 431


class TooSlow(WireError):
    """A request that takes longer than --handshake-s or --body-s to come."""

    code = "too_slow"
    http_status = 408


class Places:
    """So many of one kind at once, in all and for one client's address."""

    def __init__(self, kind: str, most: int, most_per_client: int) -> None:
        self._kind, self._most, self._most_per_client = kind, most, most_per_client
        self._taken: Counter[str] = Counter()
        self.num_taken = 0

    def refusal(self, client: str) -> str:
        """Why this client gets none now; empty when it does."""
        flag = flag_name(f"max_{self._kind}")
        if self.num_taken >= self._most:
            return f"this server takes {self._most} {self._kind} at once, and has them (serve … {flag})"
        if self._taken[client] >= self._most_per_client:
            most = f"{self._most_per_client} {self._kind} at once from one address"
            return f"this server takes {most}, and has them from {client} (serve … {flag}-per-client)"
        return ""

    def take(self, client: str) -> None:
        """One more."""
        self._taken[client] += 1
        self.num_taken += 1

    def give_back(self, client: str) -> None:
        """One less."""
        self.num_taken -= 1
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]


class Pace:
    """So many at once, and so many a second in the long run."""

    def __init__(self, burst: int, a_second: float, now: float) -> None:
        self._burst_s, self._each_s = burst / a_second, 1 / a_second
        self._until = now - self._burst_s  # when those so far are paid for

    def pause_s(self, now: float) -> float:
        """One more came: how long to wait before the next."""
        self._until = max(self._until, now - self._burst_s) + self._each_s
        return max(0.0, self._until - now)


class Phase(enum.Enum):
    """What of a request is coming in."""

    HEAD = "head"
    BODY = "body"
    BETWEEN = "between"  # nothing: the last one is whole, the next one has not begun


class RequestMeter:
    """Where one connection is in its requests; raises what refuses the request that is past a limit."""

    def __init__(self, limits: ServerConfig) -> None:
        self._limits = limits
        self.phase = Phase.HEAD
        self._read_bytes = 0  # off the wire: of this head while it comes, then of this body
        self._head_bytes = self._num_headers = self._body_bytes = 0
        self._is_chunked = False

    @property
    def most_to_read(self) -> int:
        """How many bytes to look at before the next `read`."""
        return self._limits.max_head_bytes + 1

    def began(self) -> None:
        """A head begins."""
        self.phase = Phase.HEAD
        self._read_bytes = self._head_bytes = self._num_headers = self._body_bytes = 0

    def head_part(self, size_bytes: int) -> None:
        """Some of the request line, or a header without its colon, space and end."""
        self._head_bytes += size_bytes
        if self._head_bytes > self._limits.max_head_bytes:
            raise self._head_too_large()

    def header(self, name: bytes, value: bytes) -> None:
        """One more header, or trailer."""
        self._num_headers += 1
        if self._num_headers > self._limits.max_headers:
            raise HeadTooLarge(f"a request has at most {self._limits.max_headers} headers (serve … --max-headers)")
        self.head_part(len(name) + len(value) + 4)

    def head_ended(self, content_length: int | None, num_waiting: int) -> None:
        """The head is whole; `num_waiting` requests wait for the answer to the one before them."""
        if content_length is not None and content_length > self._limits.max_message_bytes:
            raise self._too_large()
        if num_waiting >= _MOST_PIPELINED:
            raise ServerFull(f"{num_waiting} requests wait on this connection; read their answers first")
        self.phase, self._read_bytes, self._is_chunked = Phase.BODY, 0, content_length is None

    def body_part(self, size_bytes: int) -> None:
        """Some of the body."""
        self._body_bytes += size_bytes
        if self._body_bytes > self._limits.max_message_bytes:
            raise self._too_large()

    def ended(self) -> None:
        """The request is whole."""
        self.phase = Phase.BETWEEN

    def read(self, size_bytes: int) -> None:
        """So much was read off the wire, and all that is in it has been told."""
        self._read_bytes += size_bytes
        if self.phase is Phase.HEAD and self._read_bytes > self._limits.max_head_bytes:
            raise self._head_too_large()
        if self.phase is Phase.BODY and self._is_chunked:
            others = self._read_bytes - _FRAMING * self._body_bytes  # extensions of chunks, trailers
            if others > 4 * self.most_to_read:
                raise self._head_too_large()

    def time_s(self) -> float:
        """How long the present phase may take in all, by what has come of it."""
        if self.phase is Phase.BODY:
            return self._limits.body_s + self._body_bytes / LEAST_BYTES_PER_S
        return self._limits.handshake_s

    def too_slow(self) -> MultiServerRLError:
        """What refuses a request whose time is over."""
        if self.phase is Phase.BODY:
            least = f"or as fast as {LEAST_BYTES_PER_S >> 10} KiB/s"
            return TooSlow(f"a request's body comes within {self._limits.body_s:g} s {least} (serve … --body-s)")
        return TooSlow(f"a request's head comes within {self._limits.handshake_s:g} s (serve … --handshake-s)")

    def _head_too_large(self) -> HeadTooLarge:
        return HeadTooLarge(
            f"a request's head has at most {self._limits.max_head_bytes} bytes (serve … --max-head-bytes)"
        )

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._limits.max_message_bytes} bytes (serve … --max-message-bytes)")
