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

from msgspec.structs import replace

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
from multiserverrl.server.faults import FAULT_KEY, as_unicode
from multiserverrl.server.laneanswers import LaneAnswers, merged
from multiserverrl.server.laneblock import ANSWERED, AREA, BUSY_SINCE, WAS_RESET, LaneBlock
from multiserverrl.server.laneshard import LaneShard
from multiserverrl.server.workerhandle import WorkerDied
from multiserverrl.server.workerline import Worker
from multiserverrl.wire import frames
from multiserverrl.wire.actions import ActionCodec
from multiserverrl.wire.arrays import StepLayout
from multiserverrl.wire.messages import Call, Called, EnvInfo, Render, Rendered, Reset, SharedBlock, Step
from multiserverrl.wire.spaces import restore_space
from multiserverrl.wire.trees import pack_tree, unpack_tree

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


class Lane:
    """The envs of one lane. `open` before anything else, `close` at the end."""

    def __init__(self, config: LaneConfig, index: int, placed: list[tuple[Worker, int]]) -> None:
        self.config, self.index, self.placed = config, index, placed
        self.num_envs = sum(count for _, count in placed)
        self.codec = ActionCodec(restore_space(config.env.action_space), self.num_envs)
        self.layout = StepLayout(restore_space(config.env.observation_space), self.num_envs)
        block = Block.create(LaneBlock.block_bytes(self.codec, self.layout), "lane")
        self._handle = block.handle
        self._block = LaneBlock(block, self.codec, self.layout)
        self._answers = LaneAnswers(index, self._block, config.autoreset_mode)
        self._was_reset = False
        self._is_closed = False
        self._shards: list[LaneShard] = []
        for worker, count in placed:
            first = self._shards[-1].rows.stop if self._shards else 0
            self._shards.append(LaneShard(worker, first, count, self._may_end))

    async def open(self) -> None:
        """Make the envs; the error of the first that cannot be made."""
        await _all([self._make(shard) for shard in self._shards])

    def is_closed(self) -> bool:
        """Whether `close` was called; what still runs makes no envs any more."""
        return self._is_closed

    async def close(self) -> None:
        """Close the envs and give the block back."""
        self._is_closed = True
        for shard in self._shards:
            shard.leave()
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
            check_step(self._was_reset, self._answers.ended)
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
        worker = self._shards[0].worker
        return None if worker.is_worn else worker

    def lent(self, last_seq: int) -> LentLane:
        """Where it stands when its connection is lent to its worker."""
        words = self._block.words  # the worker may die before it has read this
        words[ANSWERED], words[AREA], words[BUSY_SINCE], words[WAS_RESET] = last_seq, 0, 0, self._was_reset
        return LentLane(self._shards[0].key, last_seq, self._was_reset)

    def is_busy_since(self) -> int:
        """Since when the worker that answers by itself carries out a request, ns on the monotonic clock; 0: not."""
        since: int = self._block.words[BUSY_SINCE]
        return since

    def take_back(self, kept: KeptLane) -> bytes:
        """Go on where the worker left off; the last answer's frame."""
        self._was_reset = kept.was_reset
        return self._answers.take_back(kept)

    def survive(self, died: WorkerDied) -> int:
        """Go on where a worker left off that died; the last seq that it answered."""
        for shard in self._shards:
            shard.broken = died
        words = self._block.words
        self._was_reset = bool(words[WAS_RESET])
        self._block.settle()
        self._answers.remember()
        last_seq: int = words[ANSWERED]
        return last_seq

    def _may_end(self, rows: range) -> bool:
        """Whether these envs may be closed without the loss of an episode."""
        return not self._was_reset or self._answers.have_ended(rows)

    def step_plain(self, body: memoryview, on_replies: Callable[[list[Reply | WorkerDied]], None]) -> None:
        """Every env once, on a plain lane; `on_replies` gets what each shard's worker says, when all have."""
        self._answers.begin(body)
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

        async def mended(shard: LaneShard, reply: Reply | WorkerDied) -> Reply:
            return await self._recover(shard) if isinstance(reply, WorkerDied) else reply

        return self.answer(request, await _all([mended(*pair) for pair in zip(self._shards, replies, strict=True)]))

    async def step(self, request: Step, body: memoryview, loose: list[Any] | None) -> bytes:
        """Every env once, on any lane."""
        self._answers.begin(body)
        return self.answer(request, await _all([self._step_shard(shard, loose) for shard in self._shards]))

    async def _step_shard(self, shard: LaneShard, loose: list[Any] | None) -> Reply:
        renewed = _renewal_of(shard)
        if renewed is not None and self.config.autoreset_mode == "next_step":
            return await self._begin_episodes(shard, renewed)
        if shard.is_lost() or shard.broken is not None:
            return await self._recover(shard)
        command = shard.step_command
        if loose is not None:
            command = pack(StepShard(shard.key, pack_tree([loose[row] for row in shard.rows])))
        try:
            return await shard.worker.call(command, self.config.step_deadline_s)
        except WorkerDied:
            return await self._recover(shard)

    async def reset(self, request: Reset) -> bytes:
        """Reset the envs that the mask names."""
        self._was_reset, was_reset = False, self._was_reset  # one that fails leaves envs that must not be stepped
        if request.mask is None or all(request.mask):  # no episode runs here: the moment to renew what is worn
            self._renew_worn()
        self._answers.begin()
        replies = await _all([self._reset_shard(shard, request) for shard in self._shards])
        is_whole = not any(isinstance(reply, Failed) for reply in replies)
        self._was_reset = is_whole and (was_reset or request.mask is None or all(request.mask))
        return self.answer(request, [reply for reply in replies if reply is not None])

    async def _reset_shard(self, shard: LaneShard, request: Reset) -> Reply | None:
        mask = None if request.mask is None else request.mask[shard.first : shard.first + shard.count]
        if mask is not None and not any(mask):
            return None
        seeds = None if request.seeds is None else request.seeds[shard.first : shard.first + shard.count]
        command = pack(ResetShard(shard.key, seeds, request.options, mask))
        try:
            return await self._reset_again(shard, command, mask)
        except WorkerDied:  # perhaps before we asked: a reset loses nothing that was not lost, so once more
            return await self._reset_again(shard, command, mask)

    async def _reset_again(self, shard: LaneShard, command: bytes, mask: bytes | None) -> Reply:
        renewed = _renewal_of(shard)
        if shard.is_lost():
            await self._make(shard)
        if mask is None or all(mask):
            shard.broken = None  # otherwise the envs that the mask leaves out are still to be told of
        reply = await shard.worker.call(command, self.config.step_deadline_s)
        if renewed is None or not isinstance(reply, Done) or self.config.env.autoreset_modes:
            return reply
        rows = [row for index, row in enumerate(shard.rows) if mask is None or mask[index]]
        return replace(reply, infos=merged(reply, dict.fromkeys(rows, renewed)))

    async def render(self, request: Render) -> bytes:
        """What each env renders now."""
        return await self._gathered(request, lambda shard: RenderShard(shard.key))

    async def call(self, request: Call) -> bytes:
        """Get, set or call an attribute of each env."""
        return await self._gathered(
            request, lambda shard: CallShard(shard.key, request.kind, request.name, request.values)
        )

    async def _gathered(self, request: Render | Call, command: Any) -> bytes:
        async def ask(shard: LaneShard) -> Reply:
            if shard.is_lost():
                await self._make(shard)
            made: Command = command(shard)
            return await shard.worker.call(pack(made), self.config.step_deadline_s)

        replies = await _all([ask(shard) for shard in self._shards])
        failed = next((reply for reply in replies if isinstance(reply, Failed)), None)
        if failed is not None:
            return self._answers.refused(request, failed)
        values = [reply.values for reply in replies if isinstance(reply, Done)]
        kind = Rendered if isinstance(request, Render) else Called
        return frames.encode(kind(self.index, request.seq, values))

    async def _make(self, shard: LaneShard) -> None:
        await shard.make(self._making, self.is_closed, self.config.start_deadline_s)

    def _making(self, shard: LaneShard) -> MakeShard:
        config = self.config
        return MakeShard(
            shard.key, config.env, config.render_mode, config.arguments, config.autoreset_mode,
            self._handle, self.num_envs, shard.first, shard.count,
        )  # fmt: skip

    async def _recover(self, shard: LaneShard) -> Reply:
        """The shard's envs are gone: make them anew, and answer for them with their last observations, truncated."""
        answers, died = self._answers, shard.loss()
        shard.broken = died
        fault = {FAULT_KEY: {"fault": as_unicode(str(died)), "traceback": as_unicode(_printed(died))}}
        infos: dict[int, dict[str, Any]] = dict.fromkeys(shard.rows, fault)
        last = answers.last_observations(shard.rows)
        await self._make(shard)
        if self.config.autoreset_mode == "same_step":
            reply = await shard.worker.ask(ResetShard(shard.key, None, b"", None), self.config.step_deadline_s)
            assert isinstance(reply, Done)
            infos = {row: {"final_obs": last[row], "final_info": {}, **info} for row, info in infos.items()}
            told, values = merged(reply, infos), reply.values
        else:
            told, values = pack_tree(infos), answers.restore(shard.rows, last)
        answers.put_ends(shard.rows, are_truncated=True)
        shard.broken = None
        return Done(told, values)

    async def _begin_episodes(self, shard: LaneShard, renewed: dict[str, Any]) -> Reply:
        """The step that is a reset, of envs that were closed after their episodes."""
        await self._make(shard)
        reply = await shard.worker.ask(ResetShard(shard.key, None, b"", None), self.config.step_deadline_s)
        assert isinstance(reply, Done)
        self._answers.put_ends(shard.rows, are_truncated=False)
        return Done(merged(reply, dict.fromkeys(shard.rows, renewed)), reply.values)

    def answer(self, request: Step | Reset, replies: list[Any]) -> bytes:
        """The answer to a step or reset, of what the shards' workers replied."""
        answer = self._answers.answer(request, replies)
        self._renew_worn()
        return answer

    def _renew_worn(self) -> None:
        for shard in self._shards:
            if shard.worker.is_worn:
                shard.worker.renew_if_idle()


def _renewal_of(shard: LaneShard) -> dict[str, Any] | None:
    """The info of the first observation of envs whose worker was started again between their episodes."""
    return {FAULT_KEY: {"renewed": shard.was_renewed}} if shard.was_renewed and shard.is_lost() else None


def _printed(died: WorkerDied) -> str:
    return f"the last that it printed:\n{died.output}" if died.output else ""


async def _all(waiting: list[Any]) -> list[Any]:
    """Await them all, then raise the first error: no shard is left running behind a caller's back."""
    results = await asyncio.gather(*waiting, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return list(results)
