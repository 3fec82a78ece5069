"""A lane's envs as the front sees them: one shared block, shards on env workers, and what a fault does to them.

The lane carries operations out; whether one may run at all is the session's to say (wire/session).
Each operation returns the frame of its answer. A worker that dies costs its shard's episodes, marked
as faults; the other shards' trajectories go on untouched.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from multiserverrl.errors import ActionError, MisuseError, SessionLost
from multiserverrl.memory import Block
from multiserverrl.server.checks import check_reset, check_step
from multiserverrl.server.commands import (
    CallShard,
    Command,
    Done,
    DropShard,
    Failed,
    KeptLane,
    LentLane,
    MakeShard,
    RenderShard,
    Reply,
    ResetShard,
    StepShard,
    pack,
)
from multiserverrl.server.laneblock import ANSWERED, AREA, BUSY_SINCE, LaneBlock
from multiserverrl.server.pool import Worker, WorkerDied
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import (
    Call,
    Called,
    EnvInfo,
    Refused,
    Render,
    Rendered,
    Reset,
    SharedBlock,
    Step,
    Stepped,
)
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree, unpack_rows, unpack_tree

__all__ = ["Lane", "LaneConfig"]


@dataclass(frozen=True)
class LaneConfig:
    """What all lanes of one session share."""

    env: EnvInfo
    render_mode: str | None
    arguments: bytes
    autoreset_mode: str
    step_deadline_s: float
    start_deadline_s: float


class _Shard:
    """Rows first … first+count of the lane, on one env worker."""

    def __init__(self, worker: Worker, key: int, first: int, count: int) -> None:
        self.worker, self.key, self.first, self.count = worker, key, first, count
        self.rows = range(first, first + count)
        self.step_command = pack(StepShard(key))
        self.generation = worker.generation  # of the worker that holds its envs
        self.broken = ""  # why its envs are gone, until the caller has been told

    def is_lost(self) -> bool:
        """Whether the worker that held its envs is gone."""
        return self.generation != self.worker.generation or not self.worker.is_up.is_set()


class Lane:
    """The envs of one lane. `open` before anything else, `close` at the end."""

    _next_key = 0

    def __init__(self, config: LaneConfig, index: int, placed: list[tuple[Worker, int]]) -> None:
        self.config, self.index, self.placed = config, index, placed
        self.num_envs = sum(count for _, count in placed)
        self.codec = ActionCodec(restore_space(config.env.action_space), self.num_envs)
        self.layout = StepLayout(restore_space(config.env.observation_space), self.num_envs)
        block = Block.create(LaneBlock.block_bytes(self.codec, self.layout), "lane")
        self._handle = block.handle
        self._block = LaneBlock(block, self.codec, self.layout)
        self._actions, self._body = self._block.actions, self._block.bodies[0]
        self._last_body = bytes(self.layout.size_bytes)  # as answered: what a fault falls back on
        self._loose: list[bytes] = []  # the same for a space without a fixed size
        self._was_reset = False
        self._is_closed = False
        # rows that must be reset before the next step; None where something else resets them
        self._ended = np.zeros(self.num_envs, bool) if config.autoreset_mode == "disabled" else None
        self._shards: list[_Shard] = []
        first = 0
        for worker, count in placed:
            Lane._next_key += 1
            self._shards.append(_Shard(worker, Lane._next_key, first, count))
            first += count

    async def open(self) -> None:
        """Make the envs; the error of the first that cannot be made."""
        await _all([self._make(shard) for shard in self._shards])

    def is_closed(self) -> bool:
        """Whether `close` was called; what still runs makes no envs any more."""
        return self._is_closed

    async def close(self) -> None:
        """Close the envs and give the block back."""
        self._is_closed = True
        futures = [
            s.worker.call(pack(DropShard(s.key)), self.config.step_deadline_s) for s in self._shards if not s.is_lost()
        ]
        await asyncio.gather(*futures, return_exceptions=True)
        self._block.close()

    def shown(self) -> SharedBlock | None:
        """What a client on this host needs to read the answers' bodies; None where that cannot be."""
        return self._block.shown(secrets.randbits(63)) if self.layout.is_fixed else None

    def check(self, request: Step | Reset | Render | Call, body: memoryview) -> Any:
        """The check at the door, before anything is touched: ActionError or MisuseError. Returns loose actions."""
        if self._is_closed:  # by another way than this connection
            raise SessionLost("the session was closed")
        if isinstance(request, Step):
            check_step(self._was_reset, self._ended)
            if self.codec.layout is not None:
                self.codec.check(body)
                return None
            if len(body):
                raise ActionError(
                    f"actions of {self.codec.space} travel in the header, not as a body of {len(body)} bytes"
                )
            return self.codec.check_tree(unpack_tree(request.actions))
        if isinstance(request, Reset):
            check_reset(request, self.num_envs, self._was_reset)
        elif isinstance(request, Render) and self.config.render_mode is None:
            raise MisuseError("nothing to render: the session was opened without a render_mode")
        elif isinstance(request, Render) and not self._was_reset:
            raise MisuseError("reset() before the first render()")
        return None

    def is_plain(self) -> bool:
        """Whether a step is one command to each of healthy env workers: the usual case."""
        return self.codec.layout is not None and not any(shard.broken or shard.is_lost() for shard in self._shards)

    def borrower(self) -> Worker | None:
        """The env worker that could answer this lane's steps by itself, if any could."""
        if len(self._shards) > 1 or self._is_closed or not self.layout.is_fixed or not self.is_plain():
            return None
        return self._shards[0].worker

    def lent(self, last_seq: int) -> LentLane:
        """Where it stands when its connection is lent to its worker."""
        words = self._block.words  # the worker may die before it has read this
        words[ANSWERED], words[AREA], words[BUSY_SINCE] = last_seq, 0, 0
        return LentLane(self._shards[0].key, last_seq, self._was_reset)

    def is_busy_since(self) -> int:
        """Since when the worker that answers by itself carries out a request, ns on the monotonic clock; 0: not."""
        since: int = self._block.words[BUSY_SINCE]
        return since

    def take_back(self, kept: KeptLane) -> bytes:
        """Go on where the worker left off; the last answer's frame."""
        self._was_reset = kept.was_reset
        self._remember()
        return kept.answer + self._last_body if kept.has_body else kept.answer

    def survive(self, cause: str) -> int:
        """Go on where a worker left off that died of `cause`; the last seq that it answered."""
        for shard in self._shards:
            shard.broken = cause
        self._block.settle()
        self._remember()
        last_seq: int = self._block.words[ANSWERED]
        self._was_reset = self._was_reset or last_seq > 0
        return last_seq

    def _remember(self) -> bytes:
        """Keep what the block holds now, as answered."""
        self._last_body = body = bytes(self._body)
        if self._ended is not None:
            self._ended = self.layout.terminated(body) | self.layout.truncated(body)
        return body

    def step_plain(self, body: memoryview, on_replies: Callable[[list[Reply | WorkerDied]], None]) -> None:
        """Every env once, on a plain lane; `on_replies` gets what each shard's worker says, when all have."""
        self._begin(body)
        replies: list[Any] = [None] * len(self._shards)
        num_missing = len(replies)

        def on_reply(index: int, reply: Reply | WorkerDied) -> None:
            nonlocal num_missing
            replies[index] = reply
            num_missing -= 1
            if not num_missing:
                on_replies(replies)

        for index, shard in enumerate(self._shards):
            shard.worker.post(shard.step_command, self.config.step_deadline_s, partial(on_reply, index))

    async def recover_plain(self, request: Step, replies: list[Any]) -> bytes:
        """The answer to a plain step of which some worker died."""

        async def mended(shard: _Shard, reply: Reply | WorkerDied) -> Reply:
            return await self._recover(shard, str(reply)) if isinstance(reply, WorkerDied) else reply

        return self.answer(request, await _all([mended(*pair) for pair in zip(self._shards, replies, strict=True)]))

    async def step(self, request: Step, body: memoryview, loose: list[Any] | None) -> bytes:
        """Every env once, on any lane."""
        self._begin(body)
        return self.answer(request, await _all([self._step_shard(shard, loose) for shard in self._shards]))

    async def _step_shard(self, shard: _Shard, loose: list[Any] | None) -> Reply:
        if shard.is_lost() or shard.broken:
            return await self._recover(shard, shard.broken or f"env worker {shard.worker.index} was started again")
        command = shard.step_command
        if loose is not None:
            command = pack(StepShard(shard.key, pack_tree([loose[row] for row in shard.rows])))
        try:
            return await shard.worker.call(command, self.config.step_deadline_s)
        except WorkerDied as died:
            return await self._recover(shard, str(died))

    async def reset(self, request: Reset) -> bytes:
        """Reset the envs that the mask names."""
        self._begin()
        self._was_reset, was_reset = False, self._was_reset  # one that fails leaves envs that must not be stepped
        replies = await _all([self._reset_shard(shard, request) for shard in self._shards])
        is_whole = not any(isinstance(reply, Failed) for reply in replies)
        self._was_reset = is_whole and (was_reset or request.mask is None or all(request.mask))
        return self.answer(request, [reply for reply in replies if reply is not None])

    async def _reset_shard(self, shard: _Shard, request: Reset) -> Reply | None:
        mask = None if request.mask is None else request.mask[shard.first : shard.first + shard.count]
        if mask is not None and not any(mask):
            return None
        seeds = None if request.seeds is None else request.seeds[shard.first : shard.first + shard.count]
        command = pack(ResetShard(shard.key, seeds, request.options, mask))
        try:
            return await self._reset_again(shard, command, mask)
        except (
            WorkerDied
        ):  # perhaps before we asked: a reset loses nothing that was not lost, so it may be tried once more
            return await self._reset_again(shard, command, mask)

    async def _reset_again(self, shard: _Shard, command: bytes, mask: bytes | None) -> Reply:
        if shard.is_lost():
            await self._make(shard)
            shard.broken = f"env worker {shard.worker.index} was started again"
        if mask is None or all(mask):
            shard.broken = ""  # otherwise the envs that the mask leaves out are still to be told of
        return await shard.worker.call(command, self.config.step_deadline_s)

    async def render(self, request: Render) -> bytes:
        """What each env renders now."""
        return await self._gathered(request, lambda shard: RenderShard(shard.key))

    async def call(self, request: Call) -> bytes:
        """Get, set or call an attribute of each env."""
        return await self._gathered(
            request, lambda shard: CallShard(shard.key, request.kind, request.name, request.values)
        )

    async def _gathered(self, request: Render | Call, command: Any) -> bytes:
        async def ask(shard: _Shard) -> Reply:
            if shard.is_lost():
                await self._make(shard)
                shard.broken = shard.broken or f"env worker {shard.worker.index} was started again"
            made: Command = command(shard)
            return await shard.worker.call(pack(made), self.config.step_deadline_s)

        replies = await _all([ask(shard) for shard in self._shards])
        failed = next((reply for reply in replies if isinstance(reply, Failed)), None)
        if failed is not None:
            return self._refused(request, failed)
        values = [reply.values for reply in replies if isinstance(reply, Done)]
        kind = Rendered if isinstance(request, Render) else Called
        return frames.encode(kind(self.index, request.seq, values))

    async def _make(self, shard: _Shard) -> None:
        config = self.config
        await shard.worker.wait_up(config.start_deadline_s)
        if self.is_closed():  # while it was waited for
            raise SessionLost("the session was closed")
        command = MakeShard(
            shard.key, config.env, config.render_mode, config.arguments, config.autoreset_mode,
            self._handle, self.num_envs, shard.first, shard.count,
        )  # fmt: skip
        generation, shard.generation = shard.worker.generation, 0  # if it fails there are no envs
        await shard.worker.ask(command, config.start_deadline_s)
        shard.generation = generation
        if self.is_closed():
            await shard.worker.ask(DropShard(shard.key), config.step_deadline_s)
            raise SessionLost("the session was closed")

    async def _recover(self, shard: _Shard, cause: str) -> Reply:
        """The shard's envs are gone: make them anew, and answer for them with their last observations, truncated."""
        shard.broken = cause
        rows, mode = shard.rows, self.config.autoreset_mode
        last = self._last_observations(shard)
        await self._make(shard)
        infos: dict[int, dict[str, Any]] = {row: {"multiserverrl": {"fault": cause, "traceback": ""}} for row in rows}
        values = b""
        if mode == "same_step":
            reply = await shard.worker.ask(ResetShard(shard.key, None, b"", None), self.config.step_deadline_s)
            assert isinstance(reply, Done)
            for row, info in (unpack_tree(reply.infos) if reply.infos else {}).items():
                if row in infos:  # not the whole lane's: what is told is the fault
                    infos[row] = {**info, **infos[row]}
            infos = {row: {"final_obs": last[row], "final_info": {}, **info} for row, info in infos.items()}
            values = reply.values
        else:
            self._restore_rows(shard, last)
            values = b"" if self.layout.is_fixed else pack_tree(last)
        self.layout.rewards(self._body)[shard.first : shard.first + shard.count] = 0.0
        self.layout.terminated(self._body)[shard.first : shard.first + shard.count] = False
        self.layout.truncated(self._body)[shard.first : shard.first + shard.count] = True
        shard.broken = ""
        return Done(pack_tree(infos), values)

    def _last_observations(self, shard: _Shard) -> dict[int, Any]:
        if not self.layout.is_fixed:
            found = self._loose_rows()
            return {row: found.get(row) for row in shard.rows}
        return {row: self.layout.row(bytearray(self._last_body), row) for row in shard.rows}

    def _loose_rows(self) -> dict[int, Any]:
        return unpack_rows(self._loose)

    def _restore_rows(self, shard: _Shard, last: dict[int, Any]) -> None:
        """The worker may have died while it wrote."""
        if self.layout.is_fixed:
            for now, before in zip(
                self.layout.arrays(self._body), self.layout.arrays(bytearray(self._last_body)), strict=True
            ):
                now[shard.first : shard.first + shard.count] = before[shard.first : shard.first + shard.count]

    def answer(self, request: Step | Reset, replies: list[Any]) -> bytes:
        """The answer to a step or reset, of what the shards' workers replied."""
        infos, loose, finals = [], [], []
        for reply in replies:
            if isinstance(reply, Failed):
                return self._refused(request, reply)
            assert isinstance(reply, Done)
            if reply.infos:
                infos.append(reply.infos)
            if reply.finals is not None:
                finals.append(reply.finals)
            if reply.values:
                loose.append(reply.values)
        body = self._remember()
        if not self.layout.is_fixed and isinstance(request, Reset) and request.mask is not None:
            loose = [pack_tree({**self._loose_rows(), **unpack_rows(loose)})]  # those not reset keep theirs
        self._loose = loose
        return self._stepped(request, infos, loose, finals, body)

    def _begin(self, actions: memoryview | bytes = b"") -> None:
        """From here on body 0 is no answer's, until the next is there."""
        self._block.words[ANSWERED] = 0
        if actions:
            self._actions[:] = actions

    def _stepped(self, request: Step | Reset, infos: Any, loose: Any, finals: Any, body: bytes) -> bytes:
        self._block.words[ANSWERED] = request.seq
        if request.by_block and self.layout.is_fixed:
            return frames.encode(Stepped(self.index, request.seq, infos, loose, finals, 0))
        return frames.encode(Stepped(self.index, request.seq, infos, loose, finals), body)

    def _refused(self, request: Step | Reset | Render | Call, failed: Failed) -> bytes:
        return frames.encode(Refused(self.index, request.seq, failed.code, failed.message, failed.traceback, True))


async def _all(waiting: list[Any]) -> list[Any]:
    """Await them all, then raise the first error: no shard is left running behind a caller's back."""
    results = await asyncio.gather(*waiting, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
