"""All sessions of one server: who holds which envs, until when, and one request after the other, exactly once.

Requests come from the stream (WebSocket) and from the routes (HTTP) as frames; the same rules hold
for both. Times are the event loop's monotonic clock.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

from multiserverrl.errors import (
    ConfigError,
    EnvFault,
    ServerFull,
    ServerStopping,
    SessionLost,
    SessionTaken,
)
from multiserverrl.memory import host_id
from multiserverrl.observe.log import log
from multiserverrl.server.config import ServerConfig
from multiserverrl.server.lane import Lane, LaneConfig
from multiserverrl.server.lending import Loan
from multiserverrl.server.limits import Places
from multiserverrl.server.opening import check_native, check_version, env_id_of, lanes_of, with_lists
from multiserverrl.server.pool import WorkerPool
from multiserverrl.server.workerhandle import WorkerDied
from multiserverrl.wire.messages import (
    EnvInfo,
    Open,
    Opened,
    Resume,
    Resumed,
    SharedBlock,
)
from multiserverrl.wire.session import ServerSession

__all__ = ["ENDED", "LiveSession", "Sessions"]

ENDED = "the server is stopping: its sessions end with it, and so do their steps that took longer than --drain-s"
_STOPPING = "the server is stopping"


class LiveSession:
    """A session with its envs, and the futures of those who wait for a running request's answer."""

    def __init__(self, state: ServerSession, lanes: list[Lane], render_mode: str | None, client: str) -> None:
        self.state, self.lanes, self.render_mode = state, lanes, render_mode
        self.client = client  # the address that opened it
        self.num_envs = sum(lane.num_envs for lane in lanes)
        self.env = lanes[0].config.env
        self.waiters: dict[int, list[asyncio.Future[bytes]]] = {}
        self.num_waiting = 0  # repeats of a running request that have not been answered yet
        self.loan: Loan | None = None  # while an env worker answers its client
        self.is_closing = False

    async def recall(self) -> None:
        """Until no env worker holds the session's connection: from then on, as long as nothing is awaited."""
        while self.loan is not None:
            await self.loan.recall()


class Sessions:
    """Opens, resumes, carries out, expires and closes."""

    def __init__(self, config: ServerConfig, pool: WorkerPool) -> None:
        self.config, self.pool = config, pool
        self.envs: dict[str, EnvInfo] = {}
        self.live: dict[str, LiveSession] = {}
        self._newest: dict[str, object] = {}  # by owner: the last of the opens that are under way
        self.num_open = 0  # envs that are open, or being opened
        self._places = Places("sessions", config.max_sessions or config.count, config.max_sessions_per_client)
        self.is_draining = False  # no session is opened, and no request begun
        self.is_over = False  # they end, with whatever runs
        self.fence: Callable[[int], None] = lambda connection: None  # set by the stream: closes that connection
        self.hang_up: Callable[[str], None] = lambda reason: None  # set by the stream: closes all that are not lent
        self._probed: dict[tuple[str, str | None, bytes], EnvInfo] = {}
        self._freed = asyncio.Condition()
        self._closing: set[asyncio.Task[None]] = set()
        self._now = asyncio.get_running_loop().time

    async def learn_envs(self) -> None:
        """Ask the workers what the listed environments are; the error of the first that cannot be served."""
        for env_id in self.config.env_ids:
            try:
                self.envs[env_id] = await self.pool.probe(env_id, None, b"")
            except WorkerDied as died:
                raise EnvFault(f"{env_id} could not be made: {died}") from died

    # -- opening ---------------------------------------------------------------------------------

    async def open(self, request: Open, connection: int | None, client: str = "") -> Opened:
        """A new session for a client's address; refused before any env is made when something about it is wrong.

        SessionTaken when its owner asks for another before its envs are made.
        """
        turn = object()
        if request.owner is not None:
            self._newest[request.owner] = turn
        try:
            return await self._open(request, connection, client, turn)
        finally:
            if request.owner is not None and self._newest.get(request.owner) is turn:
                del self._newest[request.owner]

    async def _open(self, request: Open, connection: int | None, client: str, turn: object) -> Opened:
        check_version(request.version)
        env_id = env_id_of(request, self.envs)
        self._check_not_stopping()
        lanes = lanes_of(request, self.config)
        check_native(self.envs[env_id], request, lanes)
        self.pool.check_open()
        if request.owner is not None:
            await self._close_owner(request.owner)
        await self._take(request.num_envs, request.wait_s, client)
        placed: list[Any] = []
        made: list[Lane] = []
        try:
            env = await self._describe(env_id, request)
            config = LaneConfig(
                env, request.render_mode, request.arguments, request.autoreset_mode,
                self.config.step_deadline_s, self.config.start_deadline_s,
            )  # fmt: skip
            for index, size in enumerate(lanes):
                placed.append(self.pool.place(size, is_whole=bool(env.autoreset_modes)))
                made.append(Lane(config, index, placed[-1]))
            await _open_all(made)
            if request.owner is not None and self._newest.get(request.owner) is not turn:
                raise SessionTaken("its owner opened another")
        except BaseException as error:  # a client that goes away while it waits cancels this
            await asyncio.gather(*(lane.close() for lane in made), return_exceptions=True)
            for part in placed:
                self.pool.release(part)
            await self._give_back(request.num_envs, client)
            if isinstance(error, WorkerDied):
                raise EnvFault(f"{env_id} could not be made: {error}", error.output) from error
            raise
        state = ServerSession(
            secrets.token_hex(8), secrets.token_urlsafe(24), len(lanes), self._now(), owner=request.owner
        )
        if connection is not None:
            state.attach(connection, self._now())
        self.live[state.id] = LiveSession(state, made, request.render_mode, client)
        log("session_opened", session=state.id, env=env_id, num_envs=request.num_envs)
        lives_s = self.config.idle_s if connection is None else self.config.time_to_live_s
        blocks = [] if connection is None else self._shown(request, made)
        return Opened(state.id, state.secret, state.incarnation, lanes, env, lives_s, blocks)

    def _shown(self, request: Open, lanes: list[Lane]) -> list[SharedBlock]:
        """The lanes' blocks for a client that can read them; none for any other."""
        if not (self.config.shared_memory and request.host and request.host == host_id()):
            return []
        blocks = [block for lane in lanes if (block := lane.shown()) is not None]
        return blocks if len(blocks) == len(lanes) else []

    async def _describe(self, env_id: str, request: Open) -> EnvInfo:
        """The env as this session's arguments make it; asked for once, then known."""
        served = self.envs[env_id]
        modes = served.render_modes if served.autoreset_modes else with_lists(served.render_modes)
        if request.render_mode is not None and request.render_mode not in modes:
            raise ConfigError(
                f"{env_id} has no render_mode {request.render_mode!r}; it has {', '.join(modes) or 'none'}"
            )
        if request.render_mode is None and not request.arguments:
            return served
        key = (env_id, request.render_mode, request.arguments)
        if key not in self._probed:
            if len(self._probed) > 256:
                self._probed.clear()
            self._probed[key] = await self.pool.probe(*key)
        return self._probed[key]

    async def _take(self, num_envs: int, wait_s: float, client: str) -> None:
        """Reserve envs; waits up to `wait_s` for them, then ServerFull says who holds them until when."""
        places, most = self._places, self.config.count - num_envs
        async with self._freed:
            try:
                is_free = self._freed.wait_for(
                    lambda: self.is_draining or (self.num_open <= most and not places.refusal(client))
                )
                await asyncio.wait_for(is_free, wait_s or 0.001)
            except TimeoutError:
                told = places.refusal(client) if self.num_open <= most else self._who_holds(num_envs)
                raise ServerFull(told, self._frees_in_s()) from None
            self._check_not_stopping()
            self.num_open += num_envs
            places.take(client)

    def _ends_in_s(self, session: LiveSession) -> float | None:
        """How long a session lives at most as it is; None while it is connected."""
        ends = session.state.expires_at(self.config.time_to_live_s, self.config.idle_s)
        return None if ends is None else max(0.0, ends - self._now())

    def _frees_in_s(self) -> float | None:
        """When the next session ends by itself; None when that cannot be said."""
        return min(
            (ends for session in self.live.values() if (ends := self._ends_in_s(session)) is not None), default=None
        )

    def _who_holds(self, num_envs: int) -> str:
        free = self.config.count - self.num_open
        held = []
        for session in list(self.live.values())[:8]:
            ends = self._ends_in_s(session)
            until = "while it is connected" if ends is None else f"for {ends:.0f} s at most"
            held.append(f"a session holds {session.num_envs} {until}")  # an owner's key closes it
        asked = "1 environment was" if num_envs == 1 else f"{num_envs} environments were"
        return f"{asked} asked for, {free} of {self.config.count} are free: {'; '.join(held)}"

    async def _give_back(self, num_envs: int, client: str) -> None:
        async with self._freed:
            self.num_open -= num_envs
            self._places.give_back(client)
            self._freed.notify_all()

    async def _wake(self) -> None:
        async with self._freed:
            self._freed.notify_all()

    # -- resuming, closing -----------------------------------------------------------------------

    async def resume(self, request: Resume, connection: int) -> tuple[LiveSession, Resumed]:
        """The session goes on over this connection; the one that held it is fenced."""
        check_version(request.version)
        session = self.get(request.session)
        session.state.authenticate(request.secret)
        await session.recall()
        session = self.get(request.session)  # it may have ended meanwhile
        fenced = session.state.resume(connection, request.secret, request.incarnation, self._now())
        if fenced is not None and fenced != connection:
            self.fence(fenced)
        return session, Resumed(session.state.incarnation, [lane.last_seq for lane in session.state.lanes])

    def get(self, session_id: str) -> LiveSession:
        """SessionLost for one that does not exist, or does no more."""
        session = self.live.get(session_id)
        if self.is_over:
            raise SessionLost(ENDED)
        if session is None:
            raise SessionLost(
                f"session {session_id[:32]} is not known here: "
                "it was closed, it expired, or the server was started again"
            )
        return session

    def disconnected(self, session: LiveSession, connection: int) -> None:
        """A connection ended; the session's time to live begins."""
        session.state.detach(connection, self._now())

    async def close(self, session: LiveSession, reason: str, *, from_lane: int | None = None) -> None:
        """End a session and free its envs, when the requests that run on its lanes have ended (but for `from_lane`).

        Who waits for it may be cancelled: the envs are closed all the same.
        """
        closing = self._begin_close(session, reason, from_lane)
        if closing is not None:
            await asyncio.shield(closing)

    def _begin_close(
        self, session: LiveSession, reason: str, from_lane: int | None = None
    ) -> asyncio.Task[None] | None:
        """The session is gone at once; its envs are free when the task has ended. None when it was gone before."""
        if self.live.pop(session.state.id, None) is None:
            return None
        session.is_closing = True
        log("session_closed", session=session.state.id, reason=reason)
        if session.loan is None:
            self._fence_out(session, reason)
        closing = asyncio.get_running_loop().create_task(self._free(session, reason, from_lane))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        return closing

    async def _free(self, session: LiveSession, reason: str, from_lane: int | None) -> None:
        try:
            if session.loan is not None:
                await session.recall()
                self._fence_out(session, reason)
            await self._until_idle(session, from_lane)
            await asyncio.gather(*(lane.close() for lane in session.lanes), return_exceptions=True)
        finally:
            for lane in session.lanes:
                self.pool.release(lane.placed)
            await self._give_back(session.num_envs, session.client)

    def _fence_out(self, session: LiveSession, reason: str) -> None:
        if session.state.connection is not None and reason != "closed by its client":
            self.fence(session.state.connection)

    async def _until_idle(self, session: LiveSession, from_lane: int | None) -> None:
        for index, lane in enumerate(session.state.lanes):
            if lane.running_seq is not None and index != from_lane:
                waiter: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                session.waiters.setdefault(index, []).append(waiter)
                await waiter

    async def _close_owner(self, owner: str) -> None:
        for session in [live for live in self.live.values() if live.state.is_owned_by(owner)]:
            await self.close(session, "its owner opened another")

    def _check_not_stopping(self) -> None:
        if self.is_draining:
            raise ServerStopping(f"{_STOPPING}; try again in a few seconds")

    def check_begin(self, session: LiveSession) -> None:
        """SessionLost for a request that begins when its session is being closed, or the server stopped."""
        if session.is_closing:
            raise SessionLost("the session was closed")
        if self.is_draining:
            raise SessionLost(f"{_STOPPING}: this was not carried out, and the session ends")

    def begin_stop(self) -> None:
        """From now on no session is opened, no request begun, and no connection lent."""
        self.is_draining = True
        waking = asyncio.get_running_loop().create_task(self._wake())  # those that wait for envs wait in vain
        self._closing.add(waking)
        waking.add_done_callback(self._closing.discard)

    def end(self) -> None:
        """The sessions are over, whatever they do; who is connected, or comes back, is told."""
        self.is_over = True
        self.hang_up(_STOPPING)

    async def recall_all(self) -> None:
        """Until every connection is the front's again."""
        await asyncio.gather(*(session.recall() for session in list(self.live.values())))

    def expire(self) -> None:
        """Begin to close every session whose time is over; an env that is slow to close keeps nobody waiting."""
        now = self._now()
        for session in list(self.live.values()):
            ends = session.state.expires_at(self.config.time_to_live_s, self.config.idle_s)
            if ends is not None and ends <= now:
                self._begin_close(session, "its time was over")

    def is_busy(self) -> bool:
        """Whether any request runs."""
        return any(lane.running_seq is not None for session in self.live.values() for lane in session.state.lanes)


async def _open_all(lanes: list[Lane]) -> None:
    """Make the envs of all lanes; the error of the first that cannot be made, when all have ended."""
    results = await asyncio.gather(*(lane.open() for lane in lanes), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
