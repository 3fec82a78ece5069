"""One env worker as the front sees it: started, spoken to over a socket, listened to, ended.

A worker answers its commands in order. When it ends, every command it had waiting ends in WorkerDied, which says
of what it died and what it printed last.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from multiserverrl.errors import error_for
from multiserverrl.observe.log import log
from multiserverrl.processes import cause_of_exit
from multiserverrl.server.commands import (
    LENGTH,
    NO_LOAN,
    SHOW_WHERE,
    Command,
    DropShard,
    Failed,
    Reply,
    Returned,
    TakeBack,
    decode_told,
    pack,
)
from multiserverrl.server.output import WorkerOutput
from multiserverrl.server.workerhandle import StartWorker, WorkerDied, WorkerHandle, worker_processes

__all__ = ["OnReply", "Tenant", "Worker"]

_SHOW_WHERE_S = 0.05
_DROP_DEADLINE_S = 5.0


OnReply = Callable[["Reply | WorkerDied"], None]


class Borrowing(Protocol):
    """A connection that is lent to an env worker; a `lending.Loan` is one."""

    number: int
    step_deadline_s: float

    def overdue_s(self) -> float | None:
        """By how much its request is past its deadline; None while none runs."""

    def is_unread(self) -> bool:
        """Whether something has come by it that the worker has not read."""

    async def recall(self) -> None:
        """Until the worker has given it back."""

    def returned(self, returned: Returned) -> None:
        """The worker gave it back."""

    def lost(self, died: WorkerDied) -> None:
        """The worker died."""


class Tenant(Protocol):
    """Envs that lie on an env worker; a `laneshard.LaneShard` is one."""

    key: int

    def is_between_episodes(self) -> bool:
        """Whether none of its episodes runs, and nothing would be lost with the worker."""

    def renewed(self, cause: str) -> None:
        """That was so, and the worker is started again."""


class Worker(asyncio.Protocol):
    """One env worker as the front sees it: `call` a command, await its reply."""

    def __init__(self, index: int, on_death: Callable[[Worker, str], None], start: StartWorker | None = None) -> None:
        self.index, self._on_death, self._start = index, on_death, start or worker_processes()
        self.child: WorkerHandle | None = None
        self.num_envs = 0  # what the pool has put on it
        self.generation = 0  # how often it was started
        self.is_up = asyncio.Event()
        self.failure_cause = ""  # set when it is killed on purpose
        self.started_at = -math.inf
        self.is_worn = False  # it has grown too large, and is to be started again between episodes
        self._worn_cause = ""
        self.is_renewing = False
        self._is_leaving = False  # it closes its envs, and ends by itself
        self.tenants: set[Tenant] = set()
        self._loss = -1, WorkerDied("")  # of which generation, and why
        self._output: WorkerOutput | None = None
        self._unreaped: list[WorkerHandle] = []
        self._transport: asyncio.Transport | None = None
        self._fd = -1
        self._door: socket.socket | None = None  # the same socket, to pass descriptors by
        self._loans: dict[int, Borrowing] = {}
        self._waiting: deque[tuple[OnReply, float]] = deque()
        self._head_since = 0.0
        self._arrived = bytearray()
        self._loop = asyncio.get_running_loop()

    def post(self, command: bytes, deadline_s: float, on_reply: OnReply) -> None:
        """Send a packed command; `on_reply` is called once, with its reply or WorkerDied, never before this returns."""
        if self._transport is None:
            self._loop.call_soon(on_reply, WorkerDied(f"env worker {self.index} is not running"))
            return
        if not self._waiting:
            self._head_since = self._loop.time()
        self._waiting.append((on_reply, deadline_s))
        if self._fd >= 0 and not self._transport.get_write_buffer_size():
            command = command[self._written(command) :]  # at once: the transport would wait for our caller to return
        if command:
            self._transport.write(command)

    def _written(self, command: bytes) -> int:
        try:
            return os.write(self._fd, command)
        except OSError:  # full, or broken: the transport finds out
            return 0

    def lend(self, loan: Borrowing, command: bytes, fd: int) -> bool:
        """Pass a client's connection on, with the packed command that says so; False when that cannot be done now."""
        transport, door = self._transport, self._door
        if transport is None or door is None or transport.get_write_buffer_size():
            return False
        try:
            sent = socket.send_fds(door, [command], [fd])
        except OSError:
            return False
        if sent < len(command):
            transport.write(command[sent:])
        self._loans[loan.number] = loan
        return True

    def call(self, command: bytes, deadline_s: float) -> asyncio.Future[Reply]:
        """Like `post`; the future gives the reply, or raises WorkerDied."""
        future: asyncio.Future[Reply] = self._loop.create_future()

        def settle(reply: Reply | WorkerDied) -> None:
            if future.done():
                return
            if isinstance(reply, WorkerDied):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        self.post(command, deadline_s, settle)
        return future

    async def ask(self, command: Command, deadline_s: float) -> Reply:
        """Like `call`; a Failed reply is raised as its error."""
        reply = await self.call(pack(command), deadline_s)
        if isinstance(reply, Failed):
            raise error_for(reply.code, reply.message, reply.traceback)
        return reply

    async def wait_up(self, timeout_s: float) -> None:
        """Until it runs; WorkerDied when it does not start again in time."""
        try:
            await asyncio.wait_for(self.is_up.wait(), timeout_s)
        except TimeoutError:
            raise WorkerDied(f"env worker {self.index} did not start again within {timeout_s:.0f} s") from None

    def knock(self) -> None:
        """Ask for a sign of life if a client waits on a lent connection, and nothing else has a deadline here.

        A worker that stopped, or whose env has run away with it, leaves what has come unread.
        """
        if not self._waiting:
            for loan in self._loans.values():
                if loan.is_unread():
                    self.post(pack(TakeBack(NO_LOAN)), loan.step_deadline_s, lambda reply: None)
                    return

    def overdue_s(self, now: float) -> float:
        """By how much the oldest of what it does is past its deadline; negative while it is not."""
        late = [late for loan in self._loans.values() if (late := loan.overdue_s()) is not None]
        if late:
            self._head_since = now  # a command waits for such a step, its own time begins afterwards
            return max(late)
        return now - self._head_since - self._waiting[0][1] if self._waiting else -1.0

    def has_unread(self) -> bool:
        """Whether it has said something that was not read yet: it is we who are late (stopped, or short of a core)."""
        if self._door is None or not hasattr(select, "poll"):
            return False
        poll = select.poll()
        poll.register(self._door, select.POLLIN)
        return bool(poll.poll(0))

    async def start(self) -> None:
        """Start it, and the socket to it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        if self.child is not None and self.child.exitcode() is None:
            self._unreaped.append(self.child)  # a large one takes its time to end
        try:
            self.child = self._start(self.index, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.generation += 1
        self.started_at = self._loop.time()
        self.failure_cause, self.is_worn, self.is_renewing = "", False, False
        if self.child.stderr is not None:
            self._output = WorkerOutput(self.index, self.child.stderr)
        self._arrived.clear()
        self._door = ours.dup() if hasattr(socket, "send_fds") else None
        await self._loop.connect_accepted_socket(lambda: self, ours)
        self.is_up.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self._fd = self._transport.get_extra_info("socket").fileno() if sys.platform != "win32" else -1

    def data_received(self, data: bytes) -> None:
        arrived = self._arrived
        if not arrived and len(data) > LENGTH.size and len(data) == LENGTH.size + LENGTH.unpack_from(data)[0]:
            self._reply(data[LENGTH.size :])  # the usual case: one whole reply
            return
        arrived += data
        while len(arrived) >= LENGTH.size and len(arrived) >= LENGTH.size + LENGTH.unpack_from(arrived)[0]:
            end = LENGTH.size + LENGTH.unpack_from(arrived)[0]
            content = bytes(arrived[LENGTH.size : end])
            del arrived[:end]
            self._reply(content)

    def _reply(self, content: bytes) -> None:
        told = decode_told(content)
        if type(told) is Returned:
            try:
                self._loans.pop(told.number).returned(told)
            except Exception as error:  # one session's matter: the worker has others
                log("loan_not_settled", worker=self.index, error=repr(error))
            return
        on_reply, _ = self._waiting.popleft()
        self._head_since = self._loop.time()
        on_reply(cast("Reply", told))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport, self._fd = None, -1
        self.is_up.clear()
        cause = self.failure_cause or self._exit_cause()
        assert self.child is not None
        if not self._is_leaving:
            self.child.kill(timeout_s=0)  # what the envs started ends with it
        output, self._output = self._output.end() if self._output is not None else "", None
        died = WorkerDied(f"env worker {self.index} ended: {cause}", output)
        self._loss = self.generation, died
        waiting, self._waiting = self._waiting, deque()
        loans, self._loans = self._loans, {}
        if self._door is not None:
            self._door.close()
            self._door = None
        self._on_death(self, cause)
        for loan in loans.values():
            try:  # what goes wrong with one session must not keep the others from hearing of it
                loan.lost(died)
            except Exception as error:
                log("loan_not_settled", worker=self.index, error=repr(error))
        for on_reply, _ in waiting:
            on_reply(died)

    def _exit_cause(self) -> str:
        assert self.child is not None
        code = self.child.wait(0.1)  # it ends as it closes its socket; the front has others to serve
        if code is None:
            return "it closed its socket"
        return cause_of_exit(code)

    def loss_of(self, generation: int) -> WorkerDied:
        """Why the envs of this generation are gone."""
        lost, died = self._loss
        return died if lost == generation else WorkerDied(f"env worker {self.index} was started again")

    def kill(self, cause: str) -> None:
        """End it at once; everything that waits on it ends in WorkerDied with this cause."""
        self.failure_cause = cause
        if self.child is not None:
            self.child.kill(timeout_s=0)  # others are served while it ends
        self.hang_up()

    def end_overdue(self, cause: str) -> None:
        """Like `kill`, after a moment in which it may print where it is (see `worker.run_worker`)."""
        if self.failure_cause or self.child is None:
            return
        self.failure_cause, generation = cause, self.generation
        self.child.send_signal(SHOW_WHERE)

        def kill() -> None:
            if self.generation == generation and self._transport is not None:
                self.kill(cause)

        self._loop.call_later(_SHOW_WHERE_S, kill)

    def wear_out(self, cause: str) -> None:
        """It is to be started again as soon as that loses nothing; until then the front sees every step."""
        self.is_worn, self._worn_cause = True, cause
        self._recalling = asyncio.gather(*(loan.recall() for loan in self._loans.values()))

    def renew_if_idle(self) -> None:
        """Start a worn one again, if no episode runs on it: its envs are closed, and made anew when they are reset."""
        if not self.is_worn or self.is_renewing or self._waiting or self._loans or self._transport is None:
            return
        if not all(tenant.is_between_episodes() for tenant in self.tenants):
            return
        self.is_renewing = True
        self.is_up.clear()  # nothing new comes to it
        dropped = [self.call(pack(DropShard(tenant.key)), _DROP_DEADLINE_S) for tenant in self.tenants]
        for tenant in self.tenants:
            tenant.renewed(f"env worker {self.index}: {self._worn_cause}")
        generation = self.generation

        async def end() -> None:
            await asyncio.gather(*dropped, return_exceptions=True)
            if self.generation == generation:
                self.kill(self._worn_cause)

        self._renewing = self._loop.create_task(end())

    def reap(self) -> None:
        """Let those that took their time be forgotten by the system."""
        self._unreaped = [child for child in self._unreaped if child.exitcode() is None]

    def is_dead(self) -> bool:
        """Whether its process ended, though its socket is open (a child of the env's own may hold the other end)."""
        return self._transport is not None and self.child is not None and self.child.exitcode() is not None

    def hang_up(self) -> None:
        """Take it as lost, whatever its socket says."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Hang up: the worker closes its envs and ends by itself."""
        self.failure_cause, self._is_leaving = "the server stops", True
        if self._transport is not None:
            self._transport.close()
