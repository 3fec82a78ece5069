"""What the front and an env worker say to each other over their socket; private to this room.

Each message is a length (4 bytes, little-endian) and MessagePack; arrays lie in the lane's shared
block. A *shard* is a worker's part of one lane: rows first … first+count of the lane's batch.
"""

from __future__ import annotations

import signal
import struct
from typing import Any

import msgspec

from multiserverrl.memory import BlockHandle
from multiserverrl.server.config import WrapperConfig
from multiserverrl.wire.messages import EnvInfo, Finals

__all__ = [
    "LENGTH",
    "NO_LOAN",
    "SHOW_WHERE",
    "CallShard",
    "Command",
    "Done",
    "DropShard",
    "Failed",
    "KeptLane",
    "Lend",
    "LentLane",
    "MakeShard",
    "Probe",
    "Probed",
    "RenderShard",
    "Reply",
    "ResetShard",
    "Returned",
    "StepShard",
    "TakeBack",
    "Told",
    "WorkerConfig",
    "decode_command",
    "decode_told",
    "pack",
]

LENGTH = struct.Struct("<I")
SHOW_WHERE = getattr(signal, "SIGQUIT", signal.SIGTERM)  # print where you are: you are about to be killed
NO_LOAN = 0  # the number of none: to take it back is to ask for a sign of life


class WorkerConfig(msgspec.Struct, frozen=True):
    """What an env worker is started with; not a message."""

    wrappers: tuple[WrapperConfig, ...] = ()
    vector: bool = False
    awake_us: int = 0
    env_arguments: dict[str, Any] = {}


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


class LentLane(msgspec.Struct, array_like=True, frozen=True):
    """Where a lane stands when its session's connection is lent."""

    shard: int
    last_seq: int
    was_reset: bool


class Lend(msgspec.Struct, array_like=True, frozen=True, tag="lend"):
    """A client's connection, beside these bytes as a descriptor: answer its steps and resets. No reply.

    All envs of the session are this worker's, one shard a lane.
    """

    number: int
    lanes: list[LentLane]
    max_message_bytes: int


class TakeBack(msgspec.Struct, array_like=True, frozen=True, tag="take_back"):
    """Return a connection that was lent, if it was not returned before."""

    number: int


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


class KeptLane(msgspec.Struct, array_like=True, frozen=True):
    """Where a lane stands when its connection is returned.

    `request` is the frame of the last request answered while it was lent (empty: none), `answer` the frame that
    answered it; the body, where it has one, lies in the lane's block.
    """

    last_seq: int
    was_reset: bool
    request: bytes = b""
    answer: bytes = b""
    has_body: bool = False


class Returned(msgspec.Struct, array_like=True, frozen=True, tag="returned"):
    """The connection is the front's again; no reply to anything. `unread`: what came and was not acted on.

    `unsent`: the rest of an answer that the client has not taken yet.
    """

    number: int
    lanes: list[KeptLane]
    unread: bytes
    unsent: bytes


Command = Probe | MakeShard | ResetShard | StepShard | RenderShard | CallShard | DropShard | Lend | TakeBack
Reply = Done | Probed | Failed
Told = Reply | Returned

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_replies: msgspec.msgpack.Decoder[Told] = msgspec.msgpack.Decoder(Told)


def pack(message: Command | Told) -> bytes:
    """A message with its length in front."""
    content = _encoder.encode(message)
    return LENGTH.pack(len(content)) + content


def decode_command(content: bytes | bytearray | memoryview) -> Command:
    """A command, without its length."""
    return _commands.decode(content)


def decode_told(content: bytes | bytearray | memoryview) -> Told:
    """What a worker says, without its length."""
    return _replies.decode(content)
