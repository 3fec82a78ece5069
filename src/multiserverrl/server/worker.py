"""An env worker: a process that steps real envs, one command after the other, and knows nothing of HTTP.

What an env prints on stdout goes to stderr. The only ways in and out are the socket to the front, and the
connections of clients that the front lends (see `borrowed`).
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from pathlib import Path

import msgspec

from multiserverrl.server.borrowed import Borrowed
from multiserverrl.server.commands import (
    LENGTH,
    SHOW_WHERE,
    CallShard,
    Command,
    Done,
    DropShard,
    KeptLane,
    Lend,
    MakeShard,
    Probe,
    Probed,
    RenderShard,
    Reply,
    ResetShard,
    Returned,
    StepShard,
    TakeBack,
    WorkerConfig,
    decode_command,
    pack,
)
from multiserverrl.server.faults import ENV_ERRORS, failed_by
from multiserverrl.server.making import Source
from multiserverrl.server.shard import Shard
from multiserverrl.server.vectorshard import VectorShard
from multiserverrl.wire.trees import unpack_tree

_CHUNK_BYTES, _MOST_FDS, _NO_FD = 1 << 16, 16, -1

__all__ = ["answer_commands", "draw_without_screen", "run_worker"]


def run_worker(config: bytes, fds: list[int]) -> None:
    """Serve the front's commands from the socket `fds[0]` until it is closed."""
    worker_config = msgspec.msgpack.decode(config, type=WorkerConfig)
    os.set_inheritable(fds[0], False)  # an env may start processes of its own
    _prepare_output()
    draw_without_screen()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with contextlib.suppress(OSError):  # short of memory, the system ends an env worker, not the front
        Path("/proc/self/oom_score_adj").write_text("500")
    source = Source(worker_config.wrappers, worker_config.vector, worker_config.env_arguments, folder=Path.cwd())
    answer_commands(socket.socket(fileno=fds[0]), source, worker_config.awake_us)
    _leave_threads_behind()


def _prepare_output() -> None:
    """What envs print, and where the process was when it crashed or hung, goes to stderr, whatever envs do to that."""
    ours = os.fdopen(os.dup(2), "wb", buffering=0)
    os.dup2(2, 1)  # an env that prints must not write where a program reads
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    faulthandler.enable(ours)
    if hasattr(faulthandler, "register"):
        faulthandler.register(SHOW_WHERE, ours)


def draw_without_screen() -> None:
    """SDL, with which pygame draws, is told where there is no screen: it prints an error else, and draws as well."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _leave_threads_behind() -> None:
    """An env's thread that does not end by itself keeps no worker alive."""
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        os._exit(0)


def answer_commands(door: socket.socket, source: Source, awake_us: int = 0) -> None:
    """Carry out every command that comes in by `door`, until it is closed; then close the envs, and the door.

    `awake_us`: how long to stay awake for a client's next request, see `ServerConfig`.
    """
    worker = _Worker(door, source, awake_us)
    with door:
        try:
            worker.run()
        except (ConnectionError, BrokenPipeError):
            pass  # the front is gone
        finally:
            worker.close()


class _Worker:
    """The envs of one process, the door to the front, and the connections that the front has lent."""

    def __init__(self, door: socket.socket, source: Source, awake_us: int) -> None:
        self.door, self.source = door, source
        self.shards: dict[int, Shard | VectorShard] = {}
        self.last_step = b"", StepShard(-1)  # the same few bytes again and again: decoded once
        self._arrived, self._fds = bytearray(), deque[int]()
        self._borrowed: dict[int, Borrowed] = {}  # by descriptor
        self._more: list[int] = []  # of these connections another request has come already
        self._awake_ns = 1000 * awake_us
        self._is_awake = False  # the last wait was a short one
        # not poll() where that can be: it looks at each of 500 idle connections before every step
        self._poll = select.epoll() if sys.platform == "linux" else select.poll()
        self._poll.register(door, select.POLLIN)

    def run(self) -> None:
        """Until the front closes the door."""
        door, borrowed = self.door.fileno(), self._borrowed
        while True:
            for fd, _ in self._wait():
                if fd == door:
                    if not self._read_door():
                        return
                elif fd in borrowed:  # it may have been returned just now
                    self._serve(borrowed[fd], fd)
            more, self._more = self._more, []
            for fd in more:
                if fd in borrowed:
                    self._serve(borrowed[fd], fd)

    def _wait(self) -> list[tuple[int, int]]:
        """What has come, and where; waits for it.

        A process that sleeps takes as long to wake up as a small step takes (45 µs on a virtual machine). While
        clients answer at once, the worker stays awake for a moment, giving its core to whoever wants it.
        """
        poll, now = self._poll.poll, time.monotonic_ns
        if self._more:
            return [ready for ready in poll(0) if ready[0] not in self._more]
        began = now()
        if self._is_awake and self._borrowed:
            until = began + self._awake_ns
            while now() < until:
                os.sched_yield()
                if ready := poll(0):
                    return ready
        ready = poll()
        self._is_awake = now() - began < self._awake_ns
        return ready

    def _serve(self, connection: Borrowed, fd: int) -> None:
        had_unsent = bool(connection.unsent)
        if not (connection.send_rest() if had_unsent else connection.serve()):
            self._return(connection, fd)
            return
        if connection.has_more:  # one request a turn: nobody keeps the others waiting
            self._more.append(fd)
        if had_unsent != bool(connection.unsent):  # while it does not read, it is not read
            self._poll.modify(fd, select.POLLOUT if connection.unsent else select.POLLIN)

    def _return(self, connection: Borrowed, fd: int) -> None:
        del self._borrowed[fd]
        self._poll.unregister(fd)
        self.door.sendall(pack(connection.returned()))

    def _read_door(self) -> bool:
        """Carry out what has come by the door; False when it is closed."""
        arrived, fds, flags, _ = socket.recv_fds(self.door, _CHUNK_BYTES, _MOST_FDS, socket.MSG_CMSG_CLOEXEC)
        # one that the kernel had no room for keeps its place: the next is another client's
        self._fds.extend(fds or ([_NO_FD] if flags & socket.MSG_CTRUNC else []))
        if not arrived:
            return False
        waiting = self._arrived
        if not waiting and len(arrived) >= LENGTH.size and len(arrived) == LENGTH.size + LENGTH.unpack_from(arrived)[0]:
            self._obey(arrived[LENGTH.size :])  # the usual case: one whole command
            return True
        waiting += arrived
        while len(waiting) >= LENGTH.size and len(waiting) >= LENGTH.size + LENGTH.unpack_from(waiting)[0]:
            end = LENGTH.size + LENGTH.unpack_from(waiting)[0]
            content = bytes(waiting[LENGTH.size : end])
            del waiting[:end]
            self._obey(content)
        return True

    def _obey(self, content: bytes) -> None:
        command = self._decoded(content)
        if isinstance(command, Lend):
            self._borrow(command)
            return
        try:
            reply = self._carry_out(command)
        except ENV_ERRORS as error:  # an env may raise anything; its traceback is the client's to see
            reply = failed_by(error)
        self.door.sendall(pack(reply))

    def _borrow(self, lend: Lend) -> None:
        fd = self._fds.popleft() if self._fds else _NO_FD
        try:
            connection = Borrowed(lend, fd, self.shards)
        except Exception:  # no descriptor was to be had, or no such envs: the front goes on with it
            if fd != _NO_FD:
                os.close(fd)
            kept = [KeptLane(lane.last_seq, lane.was_reset) for lane in lend.lanes]
            self.door.sendall(pack(Returned(lend.number, kept, b"", b"")))
            return
        self._borrowed[fd] = connection
        self._poll.register(fd, select.POLLIN)

    def _decoded(self, content: bytes) -> Command:
        known, step = self.last_step
        if content == known:
            return step
        command = decode_command(content)
        if isinstance(command, StepShard) and not command.actions:
            self.last_step = content, command
        return command

    def _carry_out(self, command: Command) -> Reply:
        if isinstance(command, StepShard):
            actions = unpack_tree(command.actions) if command.actions else None
            return self.shards[command.shard].step(actions)
        if isinstance(command, ResetShard):
            options = unpack_tree(command.options) if command.options else None
            return self.shards[command.shard].reset(command.seeds, options, command.mask)
        if isinstance(command, RenderShard):
            return Done(values=self.shards[command.shard].render())
        if isinstance(command, CallShard):
            values = unpack_tree(command.values) if command.values else None
            return Done(values=self.shards[command.shard].call(command.kind, command.name, values))
        if isinstance(command, MakeShard):
            self._drop(command.shard)  # made again: the envs that it had are closed first
            if command.env.autoreset_modes:
                self.shards[command.shard] = VectorShard(command, self.source.vector_maker(command))
            else:
                self.shards[command.shard] = Shard(command, self.source.maker(command))
            return Done()
        if isinstance(command, DropShard):
            self._drop(command.shard)
            return Done()
        if isinstance(command, TakeBack):
            for fd, connection in list(self._borrowed.items()):
                if connection.number == command.number:
                    self._return(connection, fd)
            return Done()
        assert isinstance(command, Probe)
        return Probed(self.source.probe(command))

    def _drop(self, number: int) -> None:
        shard = self.shards.pop(number, None)
        if shard is not None:
            shard.close()

    def close(self) -> None:
        for connection in self._borrowed.values():
            connection.close()
        for shard in self.shards.values():
            shard.close()
