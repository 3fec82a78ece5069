"""What the front and an env worker say to each other over their socket; private to this room.

Each message is a length (4 bytes, little-endian) and MessagePack; arrays lie in the lane's shared
block. A *shard* is a worker's part of one lane: rows first … first+count of the lane's batch.
"""

from __future__ import annotations

import struct

import msgspec

from multiserverrl.memory import BlockHandle
from multiserverrl.server.config import WrapperConfig
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.messages import EnvInfo, Finals

__all__ = [
    "LENGTH",
    "CallShard",
    "Command",
    "Done",
    "DropShard",
    "Failed",
    "MakeShard",
    "Probe",
    "Probed",
    "RenderShard",
    "Reply",
    "ResetShard",
    "StepShard",
    "WorkerConfig",
    "body_offset",
    "decode_command",
    "decode_reply",
    "pack",
]

LENGTH = struct.Struct("<I")


class WorkerConfig(msgspec.Struct, frozen=True):
    """What an env worker is started with; not a message."""

    wrappers: tuple[WrapperConfig, ...] = ()
    vector: bool = False


class Probe(msgspec.Struct, array_like=True, frozen=True, tag="probe"):
    """Make one env, say what it is, close it."""

    env_id: str
    render_mode: str | None = None
    arguments: bytes = b""


class MakeShard(msgspec.Struct, array_like=True, frozen=True, tag="make"):
    """Make `count` envs whose rows begin at `first` in a lane of `num_envs`."""

    shard: int
    env: EnvInfo
    render_mode: str | None
    arguments: bytes
    autoreset_mode: str
    block: BlockHandle
    num_envs: int
    first: int
    count: int


class ResetShard(msgspec.Struct, array_like=True, frozen=True, tag="reset"):
    """Reset the shard's envs where `mask` (one byte an env) says so; None: all."""

    shard: int
    seeds: list[int | None] | None
    options: bytes
    mask: bytes | None


class StepShard(msgspec.Struct, array_like=True, frozen=True, tag="step"):
    """Step the shard's envs once; actions lie in the block, or in `actions` (a tree: one list)."""

    shard: int
    actions: bytes = b""


class RenderShard(msgspec.Struct, array_like=True, frozen=True, tag="render"):
    """Render each env of the shard."""

    shard: int


class CallShard(msgspec.Struct, array_like=True, frozen=True, tag="call"):
    """Get, set or call an attribute of each env of the shard."""

    shard: int
    kind: str
    name: str
    values: bytes


class DropShard(msgspec.Struct, array_like=True, frozen=True, tag="drop"):
    """Close the shard's envs."""

    shard: int


class Done(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """Done. `infos` and `values` are trees of {row in the lane: value}; empty bytes for none."""

    infos: bytes = b""
    values: bytes = b""
    finals: Finals | None = None


class Probed(msgspec.Struct, array_like=True, frozen=True, tag="probed"):
    """What the env is."""

    env: EnvInfo


class Failed(msgspec.Struct, array_like=True, frozen=True, tag="failed"):
    """Not done, by an error's code."""

    code: str
    message: str
    traceback: str = ""


Command = Probe | MakeShard | ResetShard | StepShard | RenderShard | CallShard | DropShard
Reply = Done | Probed | Failed

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_replies: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def pack(message: Command | Reply) -> bytes:
    """A message with its length in front."""
    content = _encoder.encode(message)
    return LENGTH.pack(len(content)) + content


def decode_command(content: bytes | bytearray | memoryview) -> Command:
    """A command, without its length."""
    return _commands.decode(content)


def decode_reply(content: bytes | bytearray | memoryview) -> Reply:
    """A reply, without its length."""
    return _replies.decode(content)


def body_offset(codec: ActionCodec) -> int:
    """Where the answer's body begins in a lane's block: behind the actions, on a cache line of its own."""
    return -(-codec.size_bytes // 64) * 64
