"""The env workers of one server: started, spoken to, watched, and started again when they die.

A worker answers its commands in order. One whose oldest command passes its deadline is killed; every
command it had waiting ends in WorkerDied. Its shards are the lanes' business (see `lane`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import msgspec

from multiserverrl.errors import PeerError, error_for
from multiserverrl.observe.log import log
from multiserverrl.processes import cause_of_exit, start_child
from multiserverrl.server.commands import (
    LENGTH,
    Command,
    Failed,
    Probe,
    Probed,
    Reply,
    Returned,
    WorkerConfig,
    decode_told,
    pack,
)
from multiserverrl.wire.messages import EnvInfo

__all__ = ["OnReply", "StartWorker", "Worker", "WorkerDied", "WorkerHandle", "WorkerPool", "worker_processes"]

_BACK_OFF_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STABLE_AFTER_S = 60.0


class WorkerDied(PeerError):
    """The env worker ended, or was killed past its deadline, before it answered."""

    code = "worker_died"


OnReply = Callable[["Reply | WorkerDied"], None]


class WorkerHandle(Protocol):
    """What runs an env worker; a `processes.Child` is one."""

    def exitcode(self) -> int | None:
        """None while it runs."""

    def wait(self, timeout_s: float) -> int | None:
        """The exit code, or None when it still runs after `timeout_s`."""

    def kill(self) -> None:
        """End it at once, as far as that can be."""


class Borrowing(Protocol):
    """A connection that is lent to an env worker; a `lending.Loan` is one."""

    number: int

    def overdue_s(self) -> float | None:
        """By how much its request is past its deadline; None while none runs."""

    def returned(self, returned: Returned) -> None:
        """The worker gave it back."""

    def lost(self, cause: str) -> None:
        """The worker died of `cause`."""


StartWorker = Callable[[int, socket.socket], WorkerHandle]


def worker_processes(worker_config: WorkerConfig | None = None) -> StartWorker:
    """A function that starts the env worker of an index, as a process that answers at the other end of a socket."""
    config = msgspec.msgpack.encode(worker_config or WorkerConfig())

    def start(index: int, door: socket.socket) -> WorkerHandle:
        return start_child(
            "multiserverrl.server.worker:run_worker", config, name=f"env worker {index}", fds=[door.fileno()]
        )

    return start


class Worker(asyncio.Protocol):
    """One env worker as the front sees it: `call` a command, await its reply."""

    def __init__(self, index: int, on_death: Callable[[Worker, str], None], start: StartWorker | None = None) -> None:
        self.index, self._on_death, self._start = index, on_death, start or worker_processes()
        self.child: WorkerHandle | None = None
        self.num_envs = 0  # what the pool has put on it
        self.generation = 0  # how often it was started
        self.is_up = asyncio.Event()
        self.failure_cause = ""  # set when it is killed on purpose
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

    def overdue_s(self, now: float) -> float:
        """By how much the oldest of what it does is past its deadline; negative while it is not."""
        late = [late for loan in self._loans.values() if (late := loan.overdue_s()) is not None]
        if late:
            self._head_since = now  # a command waits for such a step, its own time begins afterwards
            return max(late)
        return now - self._head_since - self._waiting[0][1] if self._waiting else -1.0

    async def start(self) -> None:
        """Start it, and the socket to it."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            self.child = self._start(self.index, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.generation += 1
        self.failure_cause = ""
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
        waiting, self._waiting = self._waiting, deque()
        loans, self._loans = self._loans, {}
        if self._door is not None:
            self._door.close()
            self._door = None
        self._on_death(self, cause)
        for loan in loans.values():
            try:  # what goes wrong with one session must not keep the others from hearing of it
                loan.lost(f"env worker {self.index} ended: {cause}")
            except Exception as error:
                log("loan_not_settled", worker=self.index, error=repr(error))
        for on_reply, _ in waiting:
            on_reply(WorkerDied(f"env worker {self.index} ended: {cause}"))

    def _exit_cause(self) -> str:
        assert self.child is not None
        code = self.child.wait(0.1)  # it ends as it closes its socket; the front has others to serve
        if code is None:
            self.child.kill()
            return "it closed its socket"
        return cause_of_exit(code)

    def kill(self, cause: str) -> None:
        """End it at once; everything that waits on it ends in WorkerDied with this cause."""
        self.failure_cause = cause
        if self.child is not None:
            self.child.kill()
        self.hang_up()

    def is_dead(self) -> bool:
        """Whether its process ended, though its socket is open (a child of the env's own may hold the other end)."""
        return self._transport is not None and self.child is not None and self.child.exitcode() is not None

    def hang_up(self) -> None:
        """Take it as lost, whatever its socket says."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Hang up: the worker closes its envs and ends by itself."""
        self.failure_cause = "the server stops"
        if self._transport is not None:
            self._transport.close()


class WorkerPool:
    """All env workers of the server."""

    def __init__(self, num_workers: int, *, start_deadline_s: float, start: StartWorker | None = None) -> None:
        self._start_deadline_s = start_deadline_s
        self.workers = [Worker(index, self._died, start) for index in range(num_workers)]
        self.restarts = 0
        self._deaths: dict[int, list[float]] = {}
        self._restarting: set[asyncio.Task[None]] = set()
        self._is_closing = False

    async def start(self) -> None:
        """Start them all."""
        for worker in self.workers:
            await worker.start()

    async def probe(self, env_id: str, render_mode: str | None, arguments: bytes) -> EnvInfo:
        """What an environment is, from the env worker with the fewest envs."""
        worker = min(self.workers, key=lambda candidate: candidate.num_envs)
        await worker.wait_up(self._start_deadline_s)
        reply = await worker.ask(Probe(env_id, render_mode, arguments), self._start_deadline_s)
        assert isinstance(reply, Probed)
        return reply.env

    def place(self, num_envs: int, *, is_whole: bool = False) -> list[tuple[Worker, int]]:
        """Spread envs over the workers, fewest first; (worker, how many), counted until `release`. Whole: on one."""
        if is_whole:
            only = min(self.workers, key=lambda candidate: candidate.num_envs)
            only.num_envs += num_envs
            return [(only, num_envs)]
        placed: dict[int, int] = {}
        for _ in range(num_envs):
            worker = min(self.workers, key=lambda candidate: candidate.num_envs)
            worker.num_envs += 1
            placed[worker.index] = placed.get(worker.index, 0) + 1
        return [(self.workers[index], count) for index, count in sorted(placed.items())]

    @staticmethod
    def release(placed: list[tuple[Worker, int]]) -> None:
        """Take envs off the books again."""
        for worker, count in placed:
            worker.num_envs -= count

    def kill_overdue(self, now: float) -> None:
        """Kill every worker whose oldest command is past its deadline, and miss those that died."""
        for worker in self.workers:
            if worker.is_dead():
                worker.hang_up()
            if worker.overdue_s(now) > 0 and not worker.failure_cause:
                log("env_worker_overdue", worker=worker.index, late_s=round(worker.overdue_s(now), 2))
                worker.kill("it passed the step deadline")

    def _died(self, worker: Worker, cause: str) -> None:
        if self._is_closing:
            return
        log("env_worker_died", worker=worker.index, cause=cause, starts=worker.generation)
        task = asyncio.get_running_loop().create_task(self._restart(worker))
        self._restarting.add(task)
        task.add_done_callback(self._restarting.discard)

    async def _restart(self, worker: Worker) -> None:
        now = asyncio.get_running_loop().time()
        recent = [at for at in self._deaths.get(worker.index, []) if now - at < _STABLE_AFTER_S]
        self._deaths[worker.index] = [*recent, now]
        await asyncio.sleep(_BACK_OFF_S[min(len(recent), len(_BACK_OFF_S) - 1)])
        if self._is_closing:
            return
        try:
            await worker.start()
        except OSError as error:  # no process or descriptor is to be had now: try again, with the next pause
            self._died(worker, f"it could not be started: {error}")
            return
        self.restarts += 1
        log("env_worker_restarted", worker=worker.index, starts=worker.generation)

    async def close(self, grace_s: float = 2.0) -> None:
        """End every worker: they close their envs, or are killed after `grace_s`."""
        self._is_closing = True
        for task in self._restarting:
            task.cancel()
        for worker in self.workers:
            worker.close()
        deadline = asyncio.get_running_loop().time() + grace_s
        for worker in self.workers:
            if worker.child is None:
                continue
            while worker.child.exitcode() is None and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.01)
            with contextlib.suppress(ProcessLookupError):
                worker.child.kill()
            worker.is_up.set()  # who waits for its next start hears that it is not running
