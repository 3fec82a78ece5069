"""A session's connection, lent to the env worker that has all of its envs (see `borrowed`), and taken back.

Lent: the front does not read the socket; the worker answers steps and resets by itself. The front asks for
it back before it touches the session in any other way. A worker that dies takes no connection along: the
front cuts it, the client comes back, and its request finds the envs lost as after any worker's death.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING

from multiserverrl.server.commands import Lend, Returned, TakeBack, pack
from multiserverrl.server.websocket import StreamProtocol
from multiserverrl.server.workerhandle import WorkerDied
from multiserverrl.server.workerline import Worker
from multiserverrl.wire.session import digest_of

if TYPE_CHECKING:
    from multiserverrl.server.sessions import LiveSession

__all__ = ["Loan", "lend"]

_numbers = itertools.count(1)


class Loan:
    """One connection, from `lend` until `returned` or `lost`."""

    def __init__(self, session: LiveSession, worker: Worker, protocol: StreamProtocol) -> None:
        self.number = next(_numbers)
        self.step_deadline_s = session.lanes[0].config.step_deadline_s
        self._session, self._worker, self._protocol = session, worker, protocol
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._is_asked_back = False

    def overdue_s(self) -> float | None:
        """By how much the request that the worker carries out is past its deadline; None while there is none."""
        since = [since for lane in self._session.lanes if (since := lane.is_busy_since())]
        if not since:
            return None
        return (time.monotonic_ns() - min(since)) * 1e-9 - self.step_deadline_s

    def is_unread(self) -> bool:
        """Whether something has come by it that the worker has not read."""
        return self._protocol.has_unread()

    async def recall(self) -> None:
        """Until the connection and the lanes are the front's again."""
        if not self._is_asked_back:
            self._is_asked_back = True
            self._worker.post(pack(TakeBack(self.number)), self.step_deadline_s, lambda reply: None)
        await asyncio.shield(self._ended)

    def returned(self, returned: Returned) -> None:
        """The worker gave it back."""
        try:
            for lane, state, kept in zip(self._session.lanes, self._session.state.lanes, returned.lanes, strict=True):
                answer = lane.take_back(kept)
                if kept.request:
                    state.restore(kept.last_seq, digest_of(kept.request), answer)
        except BaseException:
            self._protocol.cut()  # nobody reads it any more
            raise
        finally:
            self._end()
        self._protocol.take_back(returned.unread, returned.unsent)

    def lost(self, died: WorkerDied) -> None:
        """The worker died."""
        try:
            for lane, state in zip(self._session.lanes, self._session.state.lanes, strict=True):
                last_seq = lane.survive(died)
                if last_seq != state.last_seq:
                    state.lose_answer(last_seq)
        finally:  # who waits for it is not left waiting, whatever went wrong
            self._end()
            self._protocol.cut()

    def _end(self) -> None:
        self._session.loan = None
        if not self._ended.done():
            self._ended.set_result(None)


def lend(session: LiveSession, protocol: StreamProtocol, max_message_bytes: int) -> None:
    """Lend the connection if one env worker has all the session's envs, and nothing is in the way."""
    states = session.state.lanes
    worker = session.lanes[0].borrower()
    if worker is None or session.loan is not None or any(state.running_seq is not None for state in states):
        return
    if session.waiters or session.num_waiting or any(lane.borrower() is not worker for lane in session.lanes):
        return
    fd = protocol.lend()
    if fd < 0:
        return
    loan = Loan(session, worker, protocol)
    told = [lane.lent(state.last_seq) for lane, state in zip(session.lanes, states, strict=True)]
    if worker.lend(loan, pack(Lend(loan.number, told, max_message_bytes)), fd):
        session.loan = loan
    else:
        protocol.take_back(b"", b"")
