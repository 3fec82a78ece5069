"""A session at the client: connect, number requests, and go on after the connection broke.

The only place that sends a request again, and always with the same seq: the server answers it once
(see wire/session). What cannot be gone on with is SessionLost.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
import weakref
from collections.abc import Callable
from typing import Any

from multiserverrl.client.transport import Address, Connection, ConnectionEnded
from multiserverrl.errors import (
    EnvFault,
    MultiServerRLError,
    PeerError,
    ServerUnreachable,
    SessionLost,
    SessionTaken,
    WireError,
    error_for,
)
from multiserverrl.wire import frames
from multiserverrl.wire.messages import PROTOCOL_VERSION, Answer, Close, Open, Opened, Refused, Request, Resume, Resumed
from multiserverrl.wire.session import ClientLane

__all__ = ["Link"]

_CLOSED_FENCED = 4001
_REFUSED_BUDGET_S = 5.0  # nobody listens: the server is gone, and with it the session
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 2.0


class Link:
    """One session and the connection that holds it; made by opening it, ended by `close`."""

    _all: weakref.WeakSet[Link] = weakref.WeakSet()

    def __init__(self, address: Address, request: Open, *, timeout_s: float) -> None:
        self.address, self._request, self._timeout_s = address, request, timeout_s
        self._connection: Connection | None = None
        self._arrived: dict[int, tuple[Any, memoryview]] = {}
        self.reconnects = 0
        self._open()
        Link._all.add(self)

    def _open(self) -> None:
        self._connection = Connection(self.address, self._timeout_s)
        try:
            # waiting for free envs, and making them, may take longer than a step
            self._connection.set_timeout(self._request.wait_s + self._timeout_s)
            self._connection.send(frames.encode(self._request))
            answer = self._first_answer(Opened)
            self._connection.set_timeout(self._timeout_s)
        except TimeoutError as error:
            self._drop()
            raise ServerUnreachable(f"{self.address} did not open a session within {self._timeout_s:.0f} s") from error
        except BaseException as error:
            self._drop()
            if isinstance(error, ConnectionEnded):
                raise ServerUnreachable(f"{self.address} closed the connection while a session was opened: {error}") from error
            raise
        assert isinstance(answer, Opened)
        self.opened = answer
        self.lanes = [ClientLane() for _ in answer.lanes]

    def _first_answer(self, kind: type[Any]) -> Answer:
        assert self._connection is not None
        answer, _ = frames.decode_answer(self._connection.receive())
        if isinstance(answer, Refused):
            raise error_for(answer.code, answer.message)
        if not isinstance(answer, kind):
            raise WireError(f"{self.address} answered {type(answer).__name__} where {kind.__name__} was expected")
        return answer

    def send(self, lane: int, make: Callable[[int], Request], body: bytes = b"") -> None:
        """Send the request that `make` makes of its seq. A broken connection shows when the answer is received."""
        state = self.lanes[lane]
        frame = frames.encode(make(state.next_seq), body)
        state.sent(frame)
        if self._connection is not None:
            try:
                self._connection.send(frame)
            except OSError:
                self._drop()

    def receive(self, lane: int) -> tuple[Any, memoryview]:
        """The answer to the lane's request and its body; a refusal is raised as its error.

        EnvFault, ActionError and the like leave the session usable. SessionLost: the episodes are gone.
        """
        while lane not in self._arrived:
            try:
                self._receive_one()
            except OSError as error:
                self._drop()
                if isinstance(error, ConnectionEnded) and error.close_code == _CLOSED_FENCED:
                    raise SessionTaken(f"session {self.opened.session} ended here: {error}") from error
                self._resume(error)
            except BaseException:  # interrupted in mid-message: the connection cannot be used on
                self._drop()
                raise
        answer, body = self._arrived.pop(lane)
        if isinstance(answer, Refused):
            raise _error_of(answer)
        return answer, body

    def request(self, lane: int, make: Callable[[int], Request], body: bytes = b"") -> tuple[Any, memoryview]:
        """Send, and receive the answer."""
        self.send(lane, make, body)
        return self.receive(lane)

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
        answer, body = frames.decode_answer(self._connection.receive())
        if isinstance(answer, (Opened, Resumed)) or not 0 <= answer.lane < len(self.lanes):
            raise WireError(f"{self.address} sent {type(answer).__name__} out of turn")
        is_used = not isinstance(answer, Refused) or answer.is_final
        if self.lanes[answer.lane].answered(answer.seq, is_used=is_used):
            self._arrived[answer.lane] = (answer, body)

    def _resume(self, cause: OSError) -> None:
        """Connect again within the session's time to live, and send what is in flight again."""
        began, pause_s = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                self._connection = Connection(self.address, min(self._timeout_s, self.opened.time_to_live_s))
                self._connection.set_timeout(self._timeout_s)
                opened = self.opened
                self._connection.send(
                    frames.encode(Resume(PROTOCOL_VERSION, opened.session, opened.secret, opened.incarnation))
                )
                self._first_answer(Resumed)
                for state in self.lanes:
                    if state.in_flight is not None:
                        self._connection.send(state.in_flight)
                self.reconnects += 1
                return
            except OSError as error:
                self._drop()
                is_refused = isinstance(error.__cause__, ConnectionRefusedError)
                budget_s = _REFUSED_BUDGET_S if is_refused else self.opened.time_to_live_s
                if time.monotonic() - began > budget_s:
                    raise SessionLost(
                        f"the connection to {self.address} broke ({cause}) and could not be made again: {error}"
                    ) from error
            except BaseException:
                self._drop()
                raise
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, so that clients do not come all at once
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.drop()
            self._connection = None

    def close(self) -> None:
        """End the session, if its server can be reached; never raises for a server that is gone."""
        Link._all.discard(self)
        if self._connection is None:
            return
        with contextlib.suppress(PeerError, OSError):
            self._connection.set_timeout(5.0)
            for lane in range(len(self.lanes)):
                self.settle(lane)
            if self._connection is not None:
                self._connection.send(frames.encode(Close(0, self.lanes[0].next_seq)))
                self._connection.receive()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _forget(self) -> None:
        """In the child of a fork: the session is the parent's; its socket is closed here without a word."""
        self._drop()
        self._arrived.clear()

    def is_forgotten(self) -> bool:
        """Whether this process has no connection of its own (after a fork)."""
        return self._connection is None and self not in Link._all


def _error_of(refused: Refused) -> MultiServerRLError:
    if refused.code == EnvFault.code:
        return EnvFault(refused.message, refused.traceback)
    return error_for(refused.code, refused.message)


def _after_fork() -> None:
    for link in list(Link._all):
        link._forget()
        Link._all.discard(link)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
