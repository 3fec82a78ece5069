"""An env worker: a process that steps real envs, one command after the other, and knows nothing of HTTP.

What an env prints on stdout goes to stderr; the socket to the front is the only way in and out.
"""

from __future__ import annotations

import os
import signal
import socket
import traceback
from pathlib import Path
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
    Probe,
    Probed,
    RenderShard,
    Reply,
    ResetShard,
    StepShard,
    decode_command,
    pack,
)
from multiserverrl.server.shard import Shard, as_unicode
from multiserverrl.server.sources import find_env, make_env
from multiserverrl.wire.jsonvalues import to_json
from multiserverrl.wire.messages import EnvInfo
from multiserverrl.wire.spaces import describe_space
from multiserverrl.wire.trees import unpack_tree

__all__ = ["run_worker"]


def run_worker(config: bytes, fds: list[int]) -> None:
    """Serve the front's commands from the socket `fds[0]` until it is closed."""
    os.set_inheritable(fds[0], False)  # an env may start processes of its own
    os.dup2(2, 1)  # an env that prints must not write where a program reads
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    with socket.socket(fileno=fds[0]) as door:
        worker = _Worker()
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
    def __init__(self) -> None:
        self.shards: dict[int, Shard] = {}
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
            self.shards[command.shard] = Shard(command, _maker(command))
            return Done()
        if isinstance(command, DropShard):
            self._drop(command.shard)
            return Done()
        return Probed(_probe(command))

    def _drop(self, number: int) -> None:
        shard = self.shards.pop(number, None)
        if shard is not None:
            shard.close()

    def close(self) -> None:
        for shard in self.shards.values():
            shard.close()


def _maker(command: MakeShard | Probe) -> Any:
    """A function that makes one env of the command's; EnvFault says where the env's own code failed."""
    env_id = command.env_id if isinstance(command, Probe) else command.env.env_id
    arguments = unpack_tree(command.arguments) if command.arguments else {}

    def make() -> Any:
        try:
            return make_env(find_env(env_id), command.render_mode, arguments)
        except MultiServerRLError:
            raise
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}, line {place.lineno}, in {place.name}"
            raise EnvFault(
                f"{env_id} cannot be made: {type(error).__name__}: {error} ({where})",
                "".join(traceback.format_exception(error)),
            ) from error

    return make


def _probe(command: Probe) -> EnvInfo:
    """Make one env and describe it; SpaceError when it has a space that cannot be carried."""
    env = _maker(command)()
    try:
        spec = env.spec
        metadata = {str(key): to_json(value) for key, value in (env.metadata or {}).items()}
        return EnvInfo(
            env_id=command.env_id,
            observation_space=describe_space(env.observation_space, "the observation space"),
            action_space=describe_space(env.action_space, "the action space"),
            render_modes=[str(mode) for mode in metadata.get("render_modes") or []],
            metadata=msgspec.json.decode(msgspec.json.encode(metadata)),
            reward_threshold=None if spec is None else spec.reward_threshold,
            max_episode_steps=None if spec is None else spec.max_episode_steps,
            nondeterministic=False if spec is None else bool(spec.nondeterministic),
        )
    finally:
        env.close()
