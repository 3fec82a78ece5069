"""The session's state machine, for both sides: exactly once, whatever the wire does.

    lane:   idle(last seq, digest, answer)  ── seq = last + 1 ──►  running(seq, digest)
            running  ── finish ──►  idle;  ── withdraw (nothing was stepped) ──►  idle as before
    idle     ── restore (carried out elsewhere by the same rules) ──►  idle

A repeat of the last seq gets the kept answer, a repeat of the running one waits for that same step;
the same seq with another digest, or any other seq, is refused by name. Time comes in as arguments.
"""

from __future__ import annotations

import enum
import hashlib
import hmac

from multiserverrl.errors import SeqError, SessionLost, SessionTaken, Unauthorized

__all__ = ["ClientLane", "ServerLane", "ServerSession", "Verdict", "digest_of"]

_DIGEST_FROM_BYTES = 1024  # up to here the request itself is its digest: cheaper, and exact


def digest_of(request: bytes) -> bytes:
    """What tells two requests of the same seq apart."""
    return request if len(request) <= _DIGEST_FROM_BYTES else hashlib.blake2b(request, digest_size=16).digest()


class Verdict(enum.Enum):
    """What to do with a request."""

    RUN = "run"  # new: carry it out, then `finish` or `withdraw`
    REPEAT = "repeat"  # answered before: send `answer` again
    WAIT = "wait"  # it runs now: send the answer of that same step when it is there


class ServerLane:
    """One lane at the server: at most one request in flight, the last answer kept."""

    __slots__ = ("answer", "is_answer_lost", "last_digest", "last_seq", "running_digest", "running_seq")

    def __init__(self) -> None:
        self.last_seq = 0
        self.last_digest = b""
        self.answer = b""
        self.is_answer_lost = False  # the last one's, with the envs that it was about
        self.running_seq: int | None = None
        self.running_digest = b""

    def offer(self, seq: int, digest: bytes) -> Verdict:
        """Decide about a request; SeqError refuses it and changes nothing."""
        if self.running_seq is not None:
            if seq != self.running_seq:
                raise SeqError(
                    f"seq {seq} came while seq {self.running_seq} runs; send one request at a time on a lane"
                )
            if digest != self.running_digest:
                raise SeqError(f"seq {seq} runs, and this is another request with the same seq")
            return Verdict.WAIT
        if seq == self.last_seq + 1:
            self.running_seq, self.running_digest = seq, digest
            return Verdict.RUN
        if seq == self.last_seq and seq > 0:
            if self.is_answer_lost:
                self.running_seq, self.running_digest = seq, digest
                return Verdict.RUN
            if digest != self.last_digest:
                raise SeqError(f"seq {seq} was answered, and this is another request with the same seq")
            return Verdict.REPEAT
        kind = "is stale" if seq <= self.last_seq else "is too far ahead"
        raise SeqError(f"seq {seq} {kind}: the last was {self.last_seq}, so {self.last_seq + 1} is expected")

    def finish(self, answer: bytes) -> None:
        """The running request was carried out; keep its answer."""
        assert self.running_seq is not None
        self.last_seq, self.last_digest, self.answer = self.running_seq, self.running_digest, answer
        self.running_seq, self.running_digest, self.is_answer_lost = None, b"", False

    def restore(self, last_seq: int, digest: bytes, answer: bytes) -> None:
        """Requests up to `last_seq` were carried out elsewhere, by these rules; the last one's digest and answer."""
        assert self.running_seq is None and last_seq >= self.last_seq
        self.last_seq, self.last_digest, self.answer, self.is_answer_lost = last_seq, digest, answer, False

    def lose_answer(self, last_seq: int) -> None:
        """The same, but the envs died with the last answer: a repeat of it hears of that, as the next request does."""
        self.restore(last_seq, b"", b"")
        self.is_answer_lost = True

    def withdraw(self) -> None:
        """The running request was refused before anything was stepped: its seq is not used up."""
        assert self.running_seq is not None
        self.running_seq, self.running_digest = None, b""


class ServerSession:
    """A client's hold on its envs at the server: its secret, its connection, its lanes, its age."""

    def __init__(self, session_id: str, secret: str, lanes: int, now: float, *, owner: str | None = None) -> None:
        self.id, self.secret, self.owner = session_id, secret, owner
        self.incarnation = 1
        self.lanes = [ServerLane() for _ in range(lanes)]
        self.connection: int | None = None  # the connection that holds it; None: HTTP, or disconnected
        self.had_connection = False
        self.last_seen = now

    def authenticate(self, secret: str) -> None:
        """Unauthorized unless the secret is the session's own; compared in constant time."""
        if not secret:
            raise Unauthorized("the session's secret is missing: send it in the header Session-Secret")
        if not hmac.compare_digest(secret.encode(errors="replace"), self.secret.encode()):
            raise Unauthorized("the session's secret is wrong")

    def is_owned_by(self, owner: str) -> bool:
        """Whether it was opened with this owner key; compared in constant time."""
        own = self.owner
        return own is not None and hmac.compare_digest(owner.encode(errors="replace"), own.encode(errors="replace"))

    def attach(self, connection: int, now: float) -> int | None:
        """The connection holds the session from now on; returns the one that is fenced by it, if any."""
        fenced = self.connection
        self.connection, self.had_connection, self.last_seen = connection, True, now
        return fenced

    def resume(self, connection: int, secret: str, incarnation: int, now: float) -> int | None:
        """Like `attach`, for a client that comes back; returns the fenced connection."""
        self.authenticate(secret)
        if incarnation != self.incarnation:
            raise SessionLost(
                f"session {self.id} has other envs now (incarnation {self.incarnation}, not {incarnation})"
            )
        return self.attach(connection, now)

    def check_holder(self, connection: int | None) -> None:
        """SessionTaken when a request comes over a connection that was fenced."""
        if connection is not None and connection != self.connection:
            raise SessionTaken(f"a newer connection took session {self.id} over")

    def detach(self, connection: int, now: float) -> None:
        """The connection ended; its time to live begins. A fenced connection changes nothing."""
        if self.connection == connection:
            self.connection, self.last_seen = None, now

    def lane(self, index: int) -> ServerLane:
        """SeqError for a lane that the session does not have."""
        if not 0 <= index < len(self.lanes):
            raise SeqError(f"lane {index} does not exist; the session has {len(self.lanes)}")
        return self.lanes[index]

    def expires_at(self, time_to_live_s: float, idle_s: float) -> float | None:
        """When it ends by itself; None while a connection holds it or a request runs."""
        if self.connection is not None or any(lane.running_seq is not None for lane in self.lanes):
            return None
        return self.last_seen + (time_to_live_s if self.had_connection else idle_s)


class ClientLane:
    """One lane at the client: numbers requests, and keeps the one in flight for sending again."""

    __slots__ = ("in_flight", "seq")

    def __init__(self) -> None:
        self.seq = 0  # of the last request that was answered or is in flight
        self.in_flight: bytes | None = None

    @property
    def next_seq(self) -> int:
        """The seq for the next request."""
        return self.seq + 1

    def sent(self, frame: bytes) -> None:
        """`frame` bears `next_seq` and is on its way."""
        if self.in_flight is not None:
            raise SeqError(f"seq {self.seq} is in flight; wait for its answer before the next request")
        self.seq += 1
        self.in_flight = frame

    def answered(self, seq: int, is_used: bool = True) -> bool:
        """Take an answer; False for one that is not the awaited one (a late repeat: drop it).

        `is_used` False: refused before anything was stepped, the seq is free again.
        """
        if self.in_flight is None or seq != self.seq:
            return False
        self.in_flight = None
        if not is_used:
            self.seq -= 1
        return True
