"""One request after the other, exactly once: the session's rules (wire/session) applied to its lanes.

Requests come as frames from the stream (`submit`) and from the HTTP routes (`perform`). What is refused
at the door touches nothing and leaves its seq free; whatever happens behind it is the seq's one answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from multiserverrl.errors import EnvFault, MisuseError, MultiServerRLError, NotAllowedError, SessionLost, WireError
from multiserverrl.observe.log import log
from multiserverrl.server.commands import Reply
from multiserverrl.server.lane import Lane
from multiserverrl.server.sessions import ENDED, LiveSession, Sessions
from multiserverrl.server.workerhandle import WorkerDied
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Call, Close, Closed, Open, Refused, Render, Reset, Resume, Step
from multiserverrl.wire.session import ServerLane, Verdict, digest_of

__all__ = ["Requests"]


class Requests:
    """Carries out what clients ask of their sessions."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._allowed = sessions.config.names("allow_attr")
        self._now = asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, session: LiveSession, connection: int, frame: bytes, reply: Callable[[bytes], None]) -> None:
        """Carry a frame's request out, exactly once; `reply` gets the frame of its answer. WireError for no request.

        A step of a plain lane goes straight to its env worker; everything else is a task.
        """
        request, body = frames.decode_request(frame)
        if type(request) is not Step:
            self._spawn(self._reply(session, connection, frame, reply))
            return
        state: ServerLane | None = None
        try:
            session.state.check_holder(connection)
            state = session.state.lane(request.lane)
            lane = session.lanes[request.lane]
            if not lane.is_plain():
                self._spawn(self._reply(session, connection, frame, reply))
                return
            if state.offer(request.seq, digest_of(frame)) is not Verdict.RUN:
                self._spawn(self._reply(session, connection, frame, reply))
                return
        except MultiServerRLError as error:
            reply(frames.encode(Refused(request.lane, request.seq, error.code, str(error))))
            return
        self._submit_plain(session, lane, state, request, body, reply)

    def _submit_plain(
        self,
        session: LiveSession,
        lane: Lane,
        state: ServerLane,
        request: Step,
        body: memoryview,
        reply: Callable[[bytes], None],
    ) -> None:
        try:
            self._sessions.check_begin(session)
            lane.check(request, body)
        except Exception as error:
            reply(self._withdrawn(session, state, request, _refusal_of(error)))
            return

        def on_replies(told: list[Reply | WorkerDied]) -> None:
            if any(isinstance(one, WorkerDied) for one in told):
                self._spawn(self._recover_plain(session, lane, state, request, told, reply))
                return
            try:
                answer = lane.answer(request, told)
            except Exception as error:  # it was stepped: the seq is used up whatever came of it
                log("answer_failed", session=session.state.id, error=repr(error))
                answer = _final(request, EnvFault.code, f"the step's answer could not be made: {error!r}", "")
            reply(answer)  # first: the client works while we keep our books
            self._finished(session, state, request, answer)

        lane.step_plain(body, on_replies)

    async def _recover_plain(
        self,
        session: LiveSession,
        lane: Lane,
        state: ServerLane,
        request: Step,
        told: list[Reply | WorkerDied],
        reply: Callable[[bytes], None],
    ) -> None:
        answer = await self._final_answer(session, request, lane.recover_plain(request, told))
        reply(answer)
        self._finished(session, state, request, answer)

    async def _reply(self, session: LiveSession, connection: int, frame: bytes, reply: Callable[[bytes], None]) -> None:
        reply(await self.perform(session, connection, frame))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lane_of(self, session: LiveSession, connection: int | None, request: Any) -> ServerLane:
        state = session.state
        state.check_holder(connection)
        state.last_seen = self._now()
        return state.lane(request.lane)

    async def perform(self, session: LiveSession, connection: int | None, frame: bytes) -> bytes:
        """Carry a frame's request out, exactly once, and return the frame of its answer."""
        await session.recall()
        request, body = frames.decode_request(frame)
        if isinstance(request, (Open, Resume)):
            return frames.encode(Refused(0, 0, WireError.code, "a session is already open on this connection"))
        try:
            lane = self._lane_of(session, connection, request)
            verdict = lane.offer(request.seq, digest_of(frame))
        except MultiServerRLError as error:
            return frames.encode(Refused(request.lane, request.seq, error.code, str(error)))
        if verdict is Verdict.REPEAT:
            return lane.answer
        if verdict is Verdict.WAIT:
            waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
            session.waiters.setdefault(request.lane, []).append(waiter)
            session.num_waiting += 1
            try:
                return await waiter
            finally:
                session.num_waiting -= 1
        return await self._run(session, lane, request, body)

    async def _run(self, session: LiveSession, state: ServerLane, request: Any, body: memoryview) -> bytes:
        """Refused at the door: the seq stays free. Whatever happens behind the door is the seq's one answer."""
        try:
            loose = self._check(session, request, body)
        except Exception as error:  # whatever it is, the lane must not stay busy for ever
            return self._withdrawn(session, state, request, _refusal_of(error))
        answer = await self._final_answer(session, request, self._carry_out(session, request, body, loose))
        self._finished(session, state, request, answer)
        return answer

    async def _final_answer(self, session: LiveSession, request: Any, work: Coroutine[Any, Any, bytes]) -> bytes:
        try:
            return await work
        except EnvFault as fault:
            return _final(request, fault.code, fault.args[0], fault.remote_traceback)
        except Exception as error:
            if self._sessions.is_over:
                return _final(request, SessionLost.code, ENDED, "")
            log("request_failed", session=session.state.id, error=repr(error))
            code = EnvFault.code
            if isinstance(error, MultiServerRLError) and not isinstance(error, WorkerDied):
                code = error.code
            return _final(request, code, str(error) or repr(error), "")

    def _finished(self, session: LiveSession, state: ServerLane, request: Any, answer: bytes) -> None:
        state.finish(answer)
        self._settle(session, request.lane, answer)

    def _withdrawn(self, session: LiveSession, state: ServerLane, request: Any, error: MultiServerRLError) -> bytes:
        state.withdraw()
        answer = frames.encode(Refused(request.lane, request.seq, error.code, str(error)))
        self._settle(session, request.lane, answer)
        return answer

    def _settle(self, session: LiveSession, lane: int, answer: bytes) -> None:
        """Those who repeated the request while it ran get the same answer."""
        session.state.last_seen = self._now()
        if session.waiters:
            for waiter in session.waiters.pop(lane, []):
                if not waiter.done():
                    waiter.set_result(answer)

    def _check(self, session: LiveSession, request: Any, body: memoryview) -> Any:
        """The door: what the request may not do is refused before anything is touched."""
        if isinstance(request, Close):
            return None
        self._sessions.check_begin(session)
        if isinstance(request, Call) and request.name.partition(".")[0] not in self._allowed:
            raise NotAllowedError(f"the operator does not let clients touch {request.name!r} (serve … --allow-attr)")
        return session.lanes[request.lane].check(request, body)

    async def _carry_out(self, session: LiveSession, request: Any, body: memoryview, loose: Any) -> bytes:
        lane: Lane = session.lanes[request.lane]
        if isinstance(request, Step):
            return await lane.step(request, body, loose)
        if isinstance(request, Reset):
            return await lane.reset(request)
        if isinstance(request, Render):
            return await lane.render(request)
        if isinstance(request, Call):
            return await lane.call(request)
        assert isinstance(request, Close)
        await self._sessions.close(session, "closed by its client", from_lane=request.lane)
        return frames.encode(Closed(request.lane, request.seq))


def _refusal_of(error: Exception) -> MultiServerRLError:
    return error if isinstance(error, MultiServerRLError) else MisuseError(f"this request cannot be checked: {error!r}")


def _final(request: Any, code: str, message: str, traceback: str) -> bytes:
    return frames.encode(Refused(request.lane, request.seq, code, message, traceback, True))
