"""A session at the client: connect, number requests, and go on after the connection broke.

The only place that sends a request again, and always with the same seq: the server answers it once
(see wire/session). For how long, says `retries`. What cannot be gone on with is SessionLost.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from multiserverrl.client.answers import Strays, check_opened, check_resumed
from multiserverrl.client.coding import Wanted, connect
from multiserverrl.client.leaving import end_session
from multiserverrl.client.retries import Budgets, Failure, Outage, failure_of
from multiserverrl.client.shared import SharedBodies
from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.errors import (
    MultiServerRLError,
    SeqError,
    ServerUnreachable,
    SessionLost,
    SessionTaken,
    UntrustedServer,
    WireError,
    error_for,
)
from multiserverrl.wire import frames
from multiserverrl.wire.messages import (
    PROTOCOL_VERSION,
    Close,
    Open,
    Opened,
    Refused,
    Request,
    Resume,
    Resumed,
    Stepped,
)
from multiserverrl.wire.session import ClientLane

__all__ = ["Link"]

_CLOSED_FENCED, _CLOSED_STOPPING, _CLOSED_TOO_LARGE = 4001, 4005, 1009
_CLOSED_FOR_GOOD = (1002, 1003, 1007, 1008, 4002)  # our bytes are not taken: sending them again changes nothing
_DOUBTFUL = (_CLOSED_TOO_LARGE, *_CLOSED_FOR_GOOD)
_CLOSE_TIMEOUT_S = 5.0
_LEAVE_TIMEOUT_S = 0.5  # a process that ends does not wait long for a server that may be gone


class Link:
    """One session and the connection that holds it; made by opening it, ended by `close`."""

    _all: ClassVar[weakref.WeakSet[Link]] = weakref.WeakSet()

    def __init__(self, address: Address, request: Open, *, timeout_s: float, wanted: Wanted) -> None:
        self.address, self._request, self._timeout_s, self._wanted = address, request, timeout_s, wanted
        self._connection: Connection | None = None
        self._arrived: dict[int, tuple[Any, memoryview]] = {}
        self._ended: MultiServerRLError | None = None  # why nothing can be asked of this session any more
        self._outage: Outage | None = None  # since when the connection has not given an answer
        self._strays = Strays()
        self.reconnects = 0
        self._process = os.getpid()
        self._open()
        Link._all.add(self)

    def _open(self) -> None:
        try:
            connection = self._connection = connect(self.address, self._timeout_s, self._wanted)
            # waiting for free envs, and making them, may take longer than a step
            connection.set_timeout(self._request.wait_s + self._timeout_s)
            connection.send(frames.encode(self._request))
            answer = self._first_answer(Opened)
            check_opened(answer, self._request)
            connection.set_timeout(self._timeout_s)
        except BaseException as error:
            self._drop()
            if isinstance(error, TimeoutError):
                raise ServerUnreachable(
                    f"{self.address} did not open a session within {self._timeout_s:.0f} s"
                ) from error
            if isinstance(error, OSError) and not isinstance(error, (ServerUnreachable, UntrustedServer)):
                raise ServerUnreachable(
                    f"{self.address} closed the connection while a session was opened: {error}"
                ) from error
            raise
        self.opened = answer
        self.lanes = [ClientLane() for _ in answer.lanes]
        self.shared = SharedBodies(answer.blocks, len(answer.lanes))

    def _first_answer(self, kind: type[Opened] | type[Resumed]) -> Any:
        assert self._connection is not None
        answer, _ = frames.decode_answer(self._connection.receive())
        if isinstance(answer, Refused):
            raise _error_of(answer)
        if not isinstance(answer, kind):
            raise WireError(f"{self.address} answered {type(answer).__name__} where {kind.__name__} was expected")
        return answer

    def send(self, lane: int, make: Callable[[int], Request], body: bytes = b"") -> None:
        """Send the request that `make` makes of its seq. A broken connection shows when the answer is received."""
        self.send_frame(lane, frames.encode(make(self.lanes[lane].next_seq), body))

    def send_frame(self, lane: int, frame: bytes) -> None:
        """Send a frame that bears the lane's next seq."""
        if self._connection is None:
            self._check_not_ended()
        if lane in self._arrived:  # it would be taken for the answer to this request
            raise SeqError(f"the answer to seq {self.lanes[lane].seq} of lane {lane} was not taken yet")
        self.lanes[lane].sent(frame)
        if self._connection is not None:
            try:
                self._connection.send(frame)
            except (BrokenPipeError, ConnectionResetError):
                pass  # what the server said before it closed may still be read
            except OSError:
                self._drop()
            except BaseException:  # interrupted in mid-message: the connection cannot be used on
                self._drop()
                raise

    def receive(self, lane: int) -> tuple[Any, memoryview]:
        """The answer to the lane's request and its body; a refusal is raised as its error.

        EnvFault, ActionError and the like leave the session usable. SessionLost: the episodes are gone.
        """
        while lane not in self._arrived:
            if self.lanes[lane].in_flight is None:
                self._check_not_ended()
                raise SeqError(f"nothing was asked of lane {lane}: there is no answer to wait for")
            self._wait_one(lane)
        answer, body = self._arrived.pop(lane)
        if type(answer) is Refused:
            refusal = _error_of(answer)
            raise self._give_up(refusal) if isinstance(refusal, (SessionLost, SessionTaken)) else refusal
        return answer, body

    def receive_any(self, lanes: Iterable[int]) -> int:
        """Wait until the answer of any of these lanes is there, for `receive` to take; which one."""
        wanted = list(lanes)
        while True:
            for lane in wanted:
                if lane in self._arrived:
                    return lane
            self._wait_one(wanted[0])

    def has_answer(self, lane: int) -> bool:
        """Whether `receive` would not wait."""
        return lane in self._arrived

    def take_arrived(self) -> None:
        """Take in the messages that have come already, without waiting for another."""
        with contextlib.suppress(OSError):  # shows again, and is mended, when an answer is received
            while self._connection is not None and self._connection.has_message():
                self._receive_one()

    def fileno(self) -> int | None:
        """For selectors; None while the connection is broken."""
        return None if self._connection is None else self._connection.fileno()

    def look_out(self, waited_s: float, silent_s: float) -> None:
        """For who has waited so long by `fileno`: a connection that is too late, or dead, is dropped."""
        try:
            if self._connection is not None:
                self._connection.look_out(waited_s, silent_s)
        except OSError:
            self._drop()

    def request(self, lane: int, make: Callable[[int], Request], body: bytes = b"") -> tuple[Any, memoryview]:
        """Send, and receive the answer."""
        self.send(lane, make, body)
        return self.receive(lane)

    def _wait_one(self, lane: int) -> None:
        """Take in one message, over a new connection if need be; `lane` waits for an answer."""
        try:
            self._receive_one()
            self._outage = None
        except OSError as error:
            self._drop()
            self._check_not_ended()
            self._outage = self._outage or Outage(Budgets.of(self.opened.time_to_live_s, self._timeout_s))
            self._check_close_code(error)
            self._resume(error, self._outage)
        except BaseException:  # interrupted in mid-message: the connection cannot be used on
            self._drop()
            raise

    def settle(self, lane: int) -> None:
        """Wait for a request whose answer nobody took (a Ctrl-C came between), and drop it."""
        if self.lanes[lane].in_flight is not None or lane in self._arrived:
            with contextlib.suppress(MultiServerRLError):
                self.receive(lane)

    def is_pending(self, lane: int) -> bool:
        """Whether a request's answer is still to be taken."""
        return self.lanes[lane].in_flight is not None or lane in self._arrived

    def _receive_one(self) -> None:
        if self._connection is None:
            raise ConnectionEnded("the connection was cut")
        told = frames.decode_answer(self._connection.receive())
        answer = told[0]
        if isinstance(answer, (Opened, Resumed)) or not 0 <= answer.lane < len(self.lanes):
            raise WireError(f"{self.address} sent {type(answer).__name__} out of turn")
        if type(answer) is Stepped and answer.block_body >= 0 and answer.seq == self.lanes[answer.lane].seq:
            told = answer, self._shared_body(answer)
        if self.lanes[answer.lane].answered(answer.seq, type(answer) is not Refused or answer.is_final):
            self._arrived[answer.lane] = told
        else:
            self._strays.drop(answer.seq, [state.seq for state in self.lanes])

    def _shared_body(self, answer: Stepped) -> memoryview:
        try:
            return self.shared.body(answer)
        except ConnectionEnded:
            self._drop()  # the answer has come, and is of no use: it is asked for again on another
            raise

    def has_ended(self) -> bool:
        """Whether the session is over for this side: closed, lost, taken, or the parent's (after a fork)."""
        return self._ended is not None

    def _end(self, error: MultiServerRLError) -> MultiServerRLError:
        """From now on every request raises an error like this one."""
        self._drop()
        self._ended = error
        self._arrived.clear()
        self.shared.close()
        for state in self.lanes:
            state.in_flight = None
        return error

    def _give_up(self, error: MultiServerRLError) -> MultiServerRLError:
        """The server, or the way to it, ended the session; not we."""
        return self._end(error)

    def _check_not_ended(self) -> None:
        if self._ended is not None:
            raise type(self._ended)(str(self._ended.args[0]))

    def _check_close_code(self, error: OSError) -> None:
        """Heed what the server said when it closed the connection, where sending the same again makes no sense.

        A request that is too large was not carried out: its seq is free, and the session lives on. It need not be
        the one whose answer is waited for: of all in flight it is the largest. Where messages bear checksums, bytes
        are taken for wrong only when they are called so again and again: bits may have flipped around a message.
        """
        code = error.close_code if isinstance(error, ConnectionEnded) else 0
        if code == _CLOSED_FENCED:
            raise self._end(SessionTaken(f"session {self.opened.session} ended here: {error}")) from error
        if code == _CLOSED_STOPPING:
            raise self._give_up(SessionLost(f"{self.address} was stopped: {error}")) from error
        if self._wanted.checksum and code in _DOUBTFUL and self._outage is not None and self._outage.is_doubted():
            return
        if code in _CLOSED_FOR_GOOD:
            raise self._end(WireError(f"{self.address} does not take our requests: {error}")) from error
        sizes = [len(state.in_flight or b"") for state in self.lanes]
        if code == _CLOSED_TOO_LARGE and any(sizes):
            lane = sizes.index(max(sizes))
            state = self.lanes[lane]
            told = f"{self.address} does not take this request; it is too large (serve … --max-message-bytes): {error}"
            self._arrived[lane] = Refused(lane, state.seq, WireError.code, told), memoryview(b"")
            state.answered(state.seq, is_used=False)

    def _resume(self, cause: OSError, outage: Outage) -> None:
        """Connect again within the session's time to live, and send what is in flight again."""
        while True:
            outage.pause()
            try:
                self._reconnect(min(self._timeout_s, self.opened.time_to_live_s))
                if not outage.is_over(Failure.TIMED_OUT if isinstance(cause, TimeoutError) else Failure.CUT):
                    return
                raise SessionLost(f"{self.address} lets us resume but has not answered for {outage.lasts_s():.0f} s")
            except OSError as error:
                self._drop()
                self._check_close_code(error)
                if outage.is_over(failure_of(error)):
                    raise self._give_up(
                        SessionLost(
                            f"the connection to {self.address} broke ({cause}) and could not be made again "
                            f"for {outage.lasts_s():.0f} s: {error}"
                        )
                    ) from error
            except MultiServerRLError as error:
                if not (self._wanted.doubts(error) and outage.is_doubted()):
                    raise self._give_up(error) from None
                self._drop()
            except BaseException:
                self._drop()
                raise

    def _reconnect(self, timeout_s: float) -> None:
        opened = self.opened
        self._connection = connect(self.address, timeout_s, self._wanted)
        self._connection.set_timeout(self._timeout_s)
        self._connection.send(
            frames.encode(Resume(PROTOCOL_VERSION, opened.session, opened.secret, opened.incarnation))
        )
        resumed = self._first_answer(Resumed)
        check_resumed(resumed, len(self.lanes))
        for state, last_seq in zip(self.lanes, resumed.last_seqs, strict=True):
            if last_seq > state.seq:  # its answer would be taken for that of the next request
                raise SessionLost(f"{self.address} carried out seq {last_seq}, which this side took for refused")
            if state.in_flight is not None:
                self._connection.send(state.in_flight)
        self.reconnects += 1

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    def close(self) -> None:
        """End the session, if its server can be reached soon; never raises for a server that is gone."""
        Link._all.discard(self)
        if self._ended is not None:
            return
        try:
            with contextlib.suppress(MultiServerRLError, OSError):
                self._say_close()
        finally:
            self._end(SessionLost("this session was closed"))

    def leave(self) -> None:
        """Ask for the session's end without waiting for it; for the end of the process.

        By plain HTTP where no lane is free to ask on (a Ctrl-C came in mid-step) or the connection is broken.
        """
        idle = next((index for index, lane in enumerate(self.lanes) if lane.in_flight is None), None)
        with contextlib.suppress(OSError):
            if self._connection is not None and idle is not None:
                self._connection.send(frames.encode(Close(idle, self.lanes[idle].next_seq)))
            else:
                end_session(self.address, self.opened.session, self.opened.secret, _LEAVE_TIMEOUT_S)
        self._end(SessionLost("this process is ending"))

    def __del__(self) -> None:
        """One that is dropped without `close` does not hold its envs either."""
        if getattr(self, "_ended", self) is None and not self.is_forgotten():
            with contextlib.suppress(Exception):
                self.leave()

    def _say_close(self) -> None:
        self._drain()
        self._arrived.clear()  # nobody will take them
        self.send(0, lambda seq: Close(0, seq))
        self._drain()
        if self._connection is not None:
            self._connection.close()

    def _drain(self) -> None:
        """Take the answers on their way, with one try to connect again; TimeoutError after a few seconds."""
        for tries_left in (1, 0):
            try:
                if self._connection is None:
                    self._reconnect(_CLOSE_TIMEOUT_S)
                assert self._connection is not None
                self._connection.set_timeout(_CLOSE_TIMEOUT_S)
                while any(state.in_flight is not None for state in self.lanes):
                    self._receive_one()
                return
            except OSError as error:
                self._drop()
                if isinstance(error, TimeoutError) or not tries_left:
                    raise

    def _forget(self) -> None:
        """In the child of a fork: the session is the parent's; its socket is closed here without a word."""
        self._end(SessionLost("this is the child of a fork, the session is its parent's; call reset() to open another"))

    def is_forgotten(self) -> bool:
        """Whether this is the child of a fork, and the session its parent's."""
        return self._process != os.getpid()


def _error_of(refused: Refused) -> MultiServerRLError:
    return error_for(refused.code, refused.message, refused.traceback)


@atexit.register
def _at_exit() -> None:
    """A script that ends without close() does not hold its envs for the session's time to live."""
    for link in list(Link._all):
        link.leave()


def _after_fork() -> None:
    for link in list(Link._all):
        link._forget()
        Link._all.discard(link)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
