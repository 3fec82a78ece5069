"""A lane's part that lies on one env worker, as the front sees it: made, asked, and why it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from multiserverrl.errors import SessionLost
from multiserverrl.server.commands import DropShard, MakeShard, StepShard, pack
from multiserverrl.server.workerhandle import WorkerDied
from multiserverrl.server.workerline import Worker

__all__ = ["LaneShard"]


class LaneShard:
    """Rows first … first+count of the lane, on one env worker. `may_end(rows)`: whether none of their episodes runs."""

    _next_key = 0

    def __init__(self, worker: Worker, first: int, count: int, may_end: Callable[[range], bool]) -> None:
        LaneShard._next_key += 1
        self.worker, self.key, self.first, self.count = worker, LaneShard._next_key, first, count
        self.rows = range(first, first + count)
        self.step_command = pack(StepShard(self.key))
        self.broken: WorkerDied | None = None  # why its envs are gone, until the caller has been told
        self.was_renewed = ""  # why they are gone, where nobody need be told of a fault: no episode ran
        self._generation = 0  # of the worker that holds its envs
        self._may_end = may_end

    def is_lost(self) -> bool:
        """Whether the worker that held its envs is gone, or about to go."""
        return self._generation != self.worker.generation or not self.worker.is_up.is_set()

    def loss(self) -> WorkerDied:
        """Why its envs are gone."""
        if self.broken is not None:
            return self.broken
        return self.worker.loss_of(self._generation)

    def is_between_episodes(self) -> bool:
        return self._may_end(self.rows)

    def renewed(self, cause: str) -> None:
        """The worker is started again between this shard's episodes."""
        self.was_renewed = cause

    async def make(
        self, command: Callable[[LaneShard], MakeShard], is_closed: Callable[[], bool], start_deadline_s: float
    ) -> None:
        """Make its envs, anew if need be, when its worker runs. SessionLost if the lane is closed meanwhile."""
        worker = self.worker
        await worker.wait_up(start_deadline_s)
        if is_closed():  # while it was waited for
            raise SessionLost("the session was closed")
        if self._generation and self.broken is None and not self.was_renewed:
            self.broken = self.loss()
        generation, self._generation = worker.generation, 0  # if it fails there are no envs
        try:
            await worker.ask(command(self), start_deadline_s)
        except asyncio.CancelledError:  # who asked for them went away; they are made all the same
            worker.post(pack(DropShard(self.key)), start_deadline_s, lambda reply: None)
            raise
        self._generation, self.was_renewed = generation, ""
        if is_closed():
            await worker.ask(DropShard(self.key), start_deadline_s)
            raise SessionLost("the session was closed")
        worker.tenants.add(self)

    def leave(self) -> None:
        """The lane is closed: the worker need not mind it any more."""
        self.worker.tenants.discard(self)
