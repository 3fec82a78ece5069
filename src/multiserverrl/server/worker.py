"""An env worker: a process that steps real envs, one command after the other, and knows nothing of HTTP.

What an env prints on stdout goes to stderr; the socket to the front is the only way in and out.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from typing import Any

import msgspec

from multiserverrl.errors import EnvFault, MultiServerRLError
from multiserverrl.server.commands import (
    LENGTH,
    CallShard,
    Command,
    Done,
    DropShard,
    Failed,
    MakeShard,
    Probed,
    RenderShard,
    Reply,
    ResetShard,
    StepShard,
    WorkerConfig,
    decode_command,
    pack,
)
from multiserverrl.server.making import Source
from multiserverrl.server.shard import Shard, as_unicode
from multiserverrl.server.vectorshard import VectorShard
from multiserverrl.wire.trees import unpack_tree

__all__ = ["answer_commands", "run_worker"]


def run_worker(config: bytes, fds: list[int]) -> None:
    """Serve the front's commands from the socket `fds[0]` until it is closed."""
    worker_config = msgspec.msgpack.decode(config, type=WorkerConfig)
    os.set_inheritable(fds[0], False)  # an env may start processes of its own
    os.dup2(2, 1)  # an env that prints must not write where a program reads
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    answer_commands(socket.socket(fileno=fds[0]), Source(worker_config.wrappers, worker_config.vector))


def answer_commands(door: socket.socket, source: Source) -> None:
    """Carry out every command that comes in by `door`, until it is closed; then close the envs, and the door."""
    worker = _Worker(source)
    with door:
        try:
            for content in _commands(door):
                door.sendall(pack(worker.answer(content)))
        except (ConnectionError, BrokenPipeError):
            pass  # the front is gone
        finally:
            worker.close()


def _commands(door: socket.socket) -> Any:
    """Each command's bytes; ends when the front closes the socket."""
    waiting = bytearray()
    while True:
        while len(waiting) >= LENGTH.size and len(waiting) >= LENGTH.size + LENGTH.unpack_from(waiting)[0]:
            end = LENGTH.size + LENGTH.unpack_from(waiting)[0]
            content = bytes(waiting[LENGTH.size : end])
            del waiting[:end]
            yield content
        arrived = door.recv(1 << 16)
        if not arrived:
            return
        if not waiting and len(arrived) >= LENGTH.size and len(arrived) == LENGTH.size + LENGTH.unpack_from(arrived)[0]:
            yield arrived[LENGTH.size :]  # the usual case: one whole command
            continue
        waiting += arrived


class _Worker:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.shards: dict[int, Shard | VectorShard] = {}
        self.last_step = b"", StepShard(-1)  # the same few bytes again and again: decoded once

    def answer(self, content: bytes) -> Reply:
        """Carry a command out; whatever goes wrong becomes a reply."""
        try:
            return self._carry_out(self._decoded(content))
        except EnvFault as fault:
            return Failed(fault.code, as_unicode(fault.args[0]), as_unicode(fault.remote_traceback))
        except MultiServerRLError as error:
            return Failed(error.code, as_unicode(str(error)))
        except Exception as error:  # an env may raise anything; its traceback is the client's to see
            text = "".join(traceback.format_exception(error))
            return Failed("env_fault", as_unicode(f"{type(error).__name__}: {error}"), as_unicode(text))

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
        return Probed(self.source.probe(command))

    def _drop(self, number: int) -> None:
        shard = self.shards.pop(number, None)
        if shard is not None:
            shard.close()

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()
