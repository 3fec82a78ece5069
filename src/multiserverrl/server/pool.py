"""The env workers of one server: which envs lie where, who is past its deadline, and who is started again, when.

One that dies again and again right after its start waits longer each time, and gets no new envs while others can
have them. What a worker's end does to its envs is the lanes' business (see `lane`).
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from multiserverrl.errors import ConfigError, ServerFull
from multiserverrl.observe.log import log
from multiserverrl.server.commands import DropShard, Probe, Probed
from multiserverrl.server.workerhandle import StartWorker
from multiserverrl.server.workerline import Worker
from multiserverrl.wire.messages import EnvInfo

__all__ = ["WorkerPool"]

_BACK_OFF_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_LIFE_PER_DEATH_S = 2.0  # so long a life outweighs a death
_FAILING = 4.5  # deaths that were not outweighed: it is no accident any more
_SOON_S = 0.25  # a deadline that comes before the next look has a look of its own
_MEMORY_HARD = 1.5  # times --max-worker-mb: running episodes end
_LEAST_LIFE_S = 1.0  # before a worker is renewed for its size
_MB = 1e6
_NOBODYS = -1  # a shard that no worker has


class _Record:
    """The deaths of one worker, and what they come to."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.cause = ""
        self.starts_at = 0.0  # while it waits
        self._deaths = 0.0  # outweighed ones left out

    def died(self, cause: str, now: float) -> float:
        """How long to wait before it is started again."""
        self.cause = cause
        self._deaths = min(self._lasting(now) + 1, len(_BACK_OFF_S))
        self.worker.started_at = now  # from here on it lives no life
        pause_s = _BACK_OFF_S[round(self._deaths) - 1]
        self.starts_at = now + pause_s
        return pause_s

    def is_failing(self, now: float) -> bool:
        """Whether it dies faster than it works."""
        return (self._lasting(now) if self.worker.is_up.is_set() else self._deaths) >= _FAILING

    def _lasting(self, now: float) -> float:
        return max(0.0, self._deaths - max(0.0, now - self.worker.started_at) / _LIFE_PER_DEATH_S)


class WorkerPool:
    """All env workers of the server."""

    def __init__(
        self, num_workers: int, *, start_deadline_s: float, max_mb: int | None = None, start: StartWorker | None = None
    ) -> None:
        self._start_deadline_s, self._max_mb = start_deadline_s, max_mb
        self._keeps_size = False  # from when they are known to be small enough without envs
        self.workers = [Worker(index, self._died, start) for index in range(num_workers)]
        self.restarts = 0
        self._records = [_Record(worker) for worker in self.workers]
        self._restarting: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._loop = asyncio.get_running_loop()

    async def start(self) -> None:
        """Start them all."""
        for worker in self.workers:
            await worker.start()

    async def probe(self, env_id: str, render_mode: str | None, arguments: bytes) -> EnvInfo:
        """What an environment is, from the env worker with the fewest envs."""
        worker = self._next()
        await worker.wait_up(self._start_deadline_s)
        reply = await worker.ask(Probe(env_id, render_mode, arguments), self._start_deadline_s)
        assert isinstance(reply, Probed)
        return reply.env

    async def check_bare_size(self) -> None:
        """ConfigError where a worker is past --max-worker-mb before it has any env; from here on it is kept."""
        if self._max_mb is not None:
            for worker in self.workers:
                await worker.wait_up(self._start_deadline_s)
                await worker.ask(DropShard(_NOBODYS), self._start_deadline_s)  # it answers once all is loaded
            self.check_size()
            self._keeps_size = True

    def check_size(self) -> None:
        """ConfigError where a worker is past --max-worker-mb before it has any env of a client's."""
        for worker in self.workers:
            used_mb = _used_mb(worker)
            if self._max_mb is not None and used_mb is None:
                raise ConfigError("--max-worker-mb: this system does not say how large an env worker is (Linux does)")
            if self._max_mb is not None and used_mb is not None and used_mb > self._max_mb:
                raise ConfigError(
                    f"--max-worker-mb {self._max_mb}: an env worker takes {used_mb:.0f} MB before it has any env"
                )

    def check_open(self) -> None:
        """ServerFull, at once, where every worker waits because it died again and again."""
        now = self._loop.time()
        waiting = [
            record for record in self._records if record.is_failing(now) and not record.worker.is_up.is_set()
        ]  # fmt: skip
        if waiting and len(waiting) == len(self._records):
            first = min(waiting, key=lambda record: record.starts_at)
            raise ServerFull(
                f"every env worker dies again and again (the last: {first.cause}); "
                f"try again in {max(0.0, first.starts_at - now) + 1.0:.0f} s, and see the server's log"
            )

    def place(self, num_envs: int, *, is_whole: bool = False) -> list[tuple[Worker, int]]:
        """Spread envs over the workers, fewest first; (worker, how many), counted until `release`. Whole: on one.

        Those that fail, or are to be renewed, get some only where no other is.
        """
        if is_whole:
            only = self._next()
            only.num_envs += num_envs
            return [(only, num_envs)]
        placed: dict[int, int] = {}
        for _ in range(num_envs):
            worker = self._next()
            worker.num_envs += 1
            placed[worker.index] = placed.get(worker.index, 0) + 1
        return [(self.workers[index], count) for index, count in sorted(placed.items())]

    def _next(self) -> Worker:
        now = self._loop.time()
        best = min(
            self._records,
            key=lambda record: (record.is_failing(now), record.worker.is_worn, record.worker.num_envs),
        )
        return best.worker

    @staticmethod
    def release(placed: list[tuple[Worker, int]]) -> None:
        """Take envs off the books again."""
        for worker, count in placed:
            worker.num_envs -= count

    def health(self) -> dict[str, Any]:
        """How the workers are, for an operator."""
        now = self._loop.time()
        failing = [
            {
                "worker": record.worker.index,
                "cause": record.cause,
                "starts_again_in_s": round(max(0.0, record.starts_at - now), 1),
            }
            for record in self._records
            if record.is_failing(now)
        ]
        num_up = sum(worker.is_up.is_set() for worker in self.workers)
        is_well = num_up == len(self.workers) and not failing
        return {
            "status": "ok" if is_well else "degraded",
            "workers": len(self.workers),
            "workers_up": num_up,
            "restarts": self.restarts,
            "failing": failing,
            "worn": [worker.index for worker in self.workers if worker.is_worn],
        }

    def look_after(self, now: float) -> None:
        """A few times a second: kill every worker that is past a deadline or too large, miss those that died."""
        for worker in self.workers:
            worker.reap()
            if worker.is_dead():
                worker.hang_up()
            worker.knock()
            self._look_at_deadline(worker, now)
            if self._max_mb is not None and self._keeps_size:
                self._look_at_size(worker, self._max_mb, now)

    def _look_at_deadline(self, worker: Worker, now: float) -> None:
        late_s = worker.overdue_s(now)
        if late_s > 0 and not worker.failure_cause and not worker.has_unread():
            log("env_worker_overdue", worker=worker.index, late_s=round(late_s, 2))
            worker.end_overdue("it passed the step deadline")
        elif -_SOON_S < late_s <= 0:
            self._loop.call_later(
                0.001 - late_s, lambda: self._look_at_deadline(worker, self._loop.time())
            )  # fmt: skip

    def _look_at_size(self, worker: Worker, max_mb: int, now: float) -> None:
        used_mb = _used_mb(worker)
        if used_mb is None or used_mb <= max_mb or worker.failure_cause or worker.is_renewing:
            return
        if used_mb > _MEMORY_HARD * max_mb:
            log("env_worker_too_large", worker=worker.index, used_mb=round(used_mb))
            worker.kill(
                f"it used {used_mb:.0f} MB of memory, more than {_MEMORY_HARD} times --max-worker-mb {max_mb}; "
                "if its envs need that much, give a larger --max-worker-mb"
            )
            return
        if not worker.is_worn and now - worker.started_at > _LEAST_LIFE_S:
            log("env_worker_worn", worker=worker.index, used_mb=round(used_mb))
            worker.wear_out(f"it had grown to {used_mb:.0f} MB, and was renewed between episodes")
        worker.renew_if_idle()

    def _died(self, worker: Worker, cause: str) -> None:
        if self._is_closing:
            return
        pause_s, record = 0.0, self._records[worker.index]
        if worker.is_renewing:
            log("env_worker_renewed", worker=worker.index, starts=worker.generation)
        else:
            pause_s = record.died(cause, self._loop.time())
            log("env_worker_died", worker=worker.index, cause=cause, starts=worker.generation)
            if record.is_failing(self._loop.time()):
                log("env_worker_fails", worker=worker.index, cause=cause, starts_again_in_s=pause_s)
        task = self._loop.create_task(self._restart(worker, pause_s))
        self._restarting.add(task)
        task.add_done_callback(self._restarting.discard)

    async def _restart(self, worker: Worker, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
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
        deadline = self._loop.time() + grace_s
        for worker in self.workers:
            if worker.child is None:
                continue
            while worker.child.exitcode() is None and self._loop.time() < deadline:
                await asyncio.sleep(0.01)
            with contextlib.suppress(ProcessLookupError):
                worker.child.kill()
            worker.is_up.set()  # who waits for its next start hears that it is not running


def _used_mb(worker: Worker) -> float | None:
    used = worker.child.memory_bytes() if worker.child is not None else None
    return None if used is None else used / _MB
