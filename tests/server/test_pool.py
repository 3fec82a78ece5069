"""Env workers: how long one that keeps dying waits, and what a silent death comes to."""

import asyncio
import os
import signal

import pytest

from multiserverrl.processes import Child
from multiserverrl.server import pool as pools
from multiserverrl.server.commands import StepShard, pack
from multiserverrl.server.pool import Worker, WorkerDied, WorkerPool


def test_a_worker_that_keeps_dying_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pauses_of(deaths: int) -> list[float]:
        pool, pauses = WorkerPool(1, start_deadline_s=1.0), []

        async def sleep(pause_s: float) -> None:
            pauses.append(pause_s)

        async def start(worker: Worker) -> None:
            worker.generation += 1

        monkeypatch.setattr(pools.asyncio, "sleep", sleep)
        monkeypatch.setattr(Worker, "start", start)
        for _ in range(deaths):
            await pool._restart(pool.workers[0])
        assert pool.restarts == pool.workers[0].generation == deaths
        return pauses

    pauses = asyncio.run(pauses_of(9))
    assert pauses[:3] == [0.0, 0.1, 0.2] and pauses == sorted(pauses) and pauses[-1] == 5.0


def test_everything_that_waits_on_a_killed_worker_hears_of_its_end() -> None:
    async def causes() -> list[str]:
        died = asyncio.Event()
        worker = Worker(0, lambda *_: died.set())
        await worker.start()
        assert isinstance(worker.child, Child)
        os.kill(worker.child.pid, signal.SIGSTOP)
        waiting = [worker.call(pack(StepShard(7)), 0.01) for _ in range(2)]
        while worker.overdue_s(asyncio.get_running_loop().time()) < 0:
            await asyncio.sleep(0)
        worker.kill("it passed the step deadline")
        told = [str(await asyncio.wait_for(asyncio.gather(one, return_exceptions=True), 20)) for one in waiting]
        await asyncio.wait_for(died.wait(), 20)
        with pytest.raises(WorkerDied, match="is not running"):
            await worker.call(pack(StepShard(7)), 0.01)
        with pytest.raises(WorkerDied, match="did not start again"):
            await worker.wait_up(0.01)
        return told

    assert all("env worker 0 ended: it passed the step deadline" in told for told in asyncio.run(causes()))


def test_a_worker_that_hangs_up_at_the_end_is_no_death() -> None:
    async def run() -> None:
        pool = WorkerPool(2, start_deadline_s=20.0)
        await pool.start()
        pids = [worker.child.pid for worker in pool.workers if isinstance(worker.child, Child)]
        await pool.close()
        assert len(pids) == 2 and pool.restarts == 0
        assert all(worker.child is not None and worker.child.exitcode() == 0 for worker in pool.workers)

    asyncio.run(run())
