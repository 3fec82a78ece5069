"""Env workers: how long one that keeps dying waits, and what a silent death comes to."""

import asyncio
import os
import signal
import time

import pytest

from multiserverrl.errors import ConfigError, ServerFull
from multiserverrl.processes import Child
from multiserverrl.server import pool as pools
from multiserverrl.server.commands import DropShard, StepShard, pack
from multiserverrl.server.pool import WorkerPool
from multiserverrl.server.workerhandle import WorkerDied
from multiserverrl.server.workerline import Worker


def test_a_worker_that_keeps_dying_waits_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def pauses_of(deaths: int) -> list[float]:
        pool, pauses, real_sleep = WorkerPool(1, start_deadline_s=1.0), [], asyncio.sleep

        async def sleep(pause_s: float) -> None:
            pauses.append(pause_s)

        async def start(worker: Worker) -> None:
            worker.generation += 1

        monkeypatch.setattr(pools.asyncio, "sleep", sleep)
        monkeypatch.setattr(Worker, "start", start)
        for death in range(1, deaths + 1):
            pool._died(pool.workers[0], "a test")
            while pool.restarts < death:
                await real_sleep(0)
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
        assert worker.child.wait(20) == -signal.SIGKILL
        with pytest.raises(WorkerDied, match="is not running"):
            await worker.call(pack(StepShard(7)), 0.01)
        with pytest.raises(WorkerDied, match="did not start again"):
            await worker.wait_up(0.01)
        return told

    assert all("env worker 0 ended: it passed the step deadline" in told for told in asyncio.run(causes()))


def test_a_worker_whose_answer_waits_for_a_front_that_stood_still_is_not_late() -> None:
    async def run() -> None:
        pool = WorkerPool(1, start_deadline_s=20.0)
        await pool.start()
        (worker,) = pool.workers
        await worker.call(pack(DropShard(7)), 20.0)  # it is up
        answered = worker.call(pack(DropShard(7)), 0.05)
        time.sleep(0.5)  # noqa: ASYNC251  # as a process that is stopped
        pool.look_after(asyncio.get_running_loop().time())
        assert not worker.failure_cause
        await asyncio.wait_for(answered, 20)
        await pool.close()

    asyncio.run(run())


def test_a_worker_that_is_too_large_without_envs_is_refused_and_not_killed_while_it_starts() -> None:
    async def run() -> None:
        pool = WorkerPool(1, start_deadline_s=20.0, max_mb=20)
        await pool.start()
        (worker,) = pool.workers
        pool.look_after(asyncio.get_running_loop().time())
        assert not worker.failure_cause
        with pytest.raises(ConfigError, match=r"--max-worker-mb 20: an env worker takes \d+ MB before it has any env"):
            await pool.check_bare_size()
        await pool.close()

    asyncio.run(run())


def test_a_worker_that_hangs_up_at_the_end_is_no_death() -> None:
    async def run() -> None:
        pool = WorkerPool(2, start_deadline_s=20.0)
        await pool.start()
        pids = [worker.child.pid for worker in pool.workers if isinstance(worker.child, Child)]
        await pool.close()
        assert len(pids) == 2 and pool.restarts == 0
        assert all(worker.child is not None and worker.child.exitcode() == 0 for worker in pool.workers)

    asyncio.run(run())


class FakeTime:
    """The loop's clock, set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pool_of(num_workers: int, monkeypatch: pytest.MonkeyPatch) -> tuple[WorkerPool, FakeTime]:
    """Workers that are up without a process, and are never started again."""
    clock = FakeTime()
    pool = WorkerPool(num_workers, start_deadline_s=1.0)
    monkeypatch.setattr(pool._loop, "time", clock, raising=False)
    monkeypatch.setattr(WorkerPool, "_restart", never)
    for worker in pool.workers:
        worker.started_at = clock.now
        worker.is_up.set()
    return pool, clock


async def never(pool: WorkerPool, worker: Worker, pause_s: float) -> None:
    """In the place of a restart."""


def die(pool: WorkerPool, index: int, times: int, *, stays_down: bool = True) -> None:
    worker = pool.workers[index]
    for _ in range(times):
        worker.is_up.clear()
        pool._died(worker, "signal SIGSEGV")
    if not stays_down:
        worker.is_up.set()


def test_a_long_life_outweighs_the_deaths_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        pool, clock = pool_of(1, monkeypatch)
        die(pool, 0, 5, stays_down=False)
        assert pool.health()["failing"]
        clock.now += 20
        assert pool.health() == {
            "status": "ok", "workers": 1, "workers_up": 1, "restarts": 0, "failing": [], "worn": []
        }  # fmt: skip

    asyncio.run(run())


def test_health_names_a_worker_that_dies_again_and_again_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        pool, _ = pool_of(2, monkeypatch)
        die(pool, 1, 4)
        assert pool.health()["status"] == "degraded" and not pool.health()["failing"]  # it may be an accident
        die(pool, 1, 1)
        told = pool.health()
        assert told["failing"] == [{"worker": 1, "cause": "signal SIGSEGV", "starts_again_in_s": 1.0}]
        assert (told["status"], told["workers_up"]) == ("degraded", 1)

    asyncio.run(run())


def test_a_worker_that_fails_gets_no_envs_while_another_can_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        pool, _ = pool_of(2, monkeypatch)
        die(pool, 0, 5, stays_down=False)
        assert [(worker.index, count) for worker, count in pool.place(6)] == [(1, 6)]
        pool.check_open()

    asyncio.run(run())


def test_where_all_workers_fail_new_sessions_are_refused_with_the_cause_and_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run() -> None:
        pool, _ = pool_of(2, monkeypatch)
        die(pool, 0, 7)
        pool.check_open()
        die(pool, 1, 5)
        with pytest.raises(ServerFull, match=r"again and again \(the last: signal SIGSEGV\); try again in 2 s"):
            pool.check_open()

    asyncio.run(run())
