"""Env workers that are killed from outside: whose episodes end, and how soon others step in."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving, worker_pids
from tests.server.conftest import ENVS
from tests.server.support import request

NUM_ENVS = 4
MakeVector = Callable[..., VirtualVectorEnv]


@pytest.fixture
def faulty() -> Iterator[RunningServer]:
    """A server for one test: a worker that dies often waits longer and longer before it is started again."""
    with serving(f"{ENVS}:Scripted", count=8) as running:
        yield running


@pytest.fixture
def vector(faulty: RunningServer) -> Iterator[MakeVector]:
    """Opens vector envs on the server, and closes them whatever happens."""
    with contextlib.ExitStack() as opened:

        def make(num_envs: int, **settings: Any) -> VirtualVectorEnv:
            envs = VirtualVectorEnv(faulty.url, None, num_envs, **settings)
            opened.callback(envs.close)
            return envs

        yield make


def kill_workers(server: RunningServer) -> None:
    """Kill every env worker, and see that others are up."""
    before = worker_pids(server)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    while set(before) & set(worker_pids(server)) or request(server.url, "GET", "/health").json["workers_up"] < 2:
        pass


def test_a_worker_killed_between_steps_is_a_fault_of_its_envs_alone(faulty: RunningServer, vector: MakeVector) -> None:
    envs = vector(NUM_ENVS, on_fault="truncate")
    envs.reset(seed=10, options={"length": 6})
    envs.step(np.zeros(NUM_ENVS, np.int64))
    os.kill(worker_pids(faulty)[0], signal.SIGKILL)
    obs, rewards, _, truncations, infos = envs.step(np.zeros(NUM_ENVS, np.int64))
    assert truncations.sum() == 2 and (rewards[truncations] == 0).all()
    assert obs[:, 0].tolist() == [1.0 if lost else 2.0 for lost in truncations]
    assert [bool(fault) for fault in infos["multiserverrl"]["fault"]] == truncations.tolist()
    obs, *_ = envs.step(np.zeros(NUM_ENVS, np.int64))
    assert obs[:, 0].tolist() == [0.0 if lost else 3.0 for lost in truncations]


def test_killing_every_worker_again_and_again_loses_no_session(faulty: RunningServer, vector: MakeVector) -> None:
    envs = vector(NUM_ENVS, on_fault="truncate", autoreset_mode="same_step")
    envs.reset(seed=10, options={"length": 1000})
    for _ in range(2):
        before = worker_pids(faulty)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        truncations = envs.step(np.zeros(NUM_ENVS, np.int64))[3]
        assert truncations.all()
        assert not set(before) & set(worker_pids(faulty))
        assert not envs.step(np.zeros(NUM_ENVS, np.int64))[3].any()


def test_a_worker_that_died_is_never_taken_for_a_quiet_reset(faulty: RunningServer, vector: MakeVector) -> None:
    envs = vector(2, render_mode="ansi", on_fault="truncate")
    envs.reset(seed=10, options={"length": 1000})
    envs.step(np.zeros(2, np.int64))
    kill_workers(faulty)
    assert envs.render() == ("step 0", "step 0")  # made anew, to be shown
    truncations, infos = envs.step(np.zeros(2, np.int64))[3:]
    assert truncations.all() and all("SIGKILL" in fault for fault in infos["multiserverrl"]["fault"])
    envs.reset(seed=10)
    assert envs.step(np.zeros(2, np.int64))[0][:, 0].tolist() == [1.0, 1.0]


def test_a_masked_reset_does_not_hide_the_loss_of_the_envs_it_leaves_out(
    faulty: RunningServer, vector: MakeVector
) -> None:
    envs = vector(NUM_ENVS, autoreset_mode="disabled", on_fault="truncate")
    envs.reset(seed=10, options={"length": 1000})
    envs.step(np.zeros(NUM_ENVS, np.int64))
    for pid in worker_pids(faulty):
        os.kill(pid, signal.SIGKILL)
    envs.reset(options={"reset_mask": np.array([True, False, False, False])})
    truncations = envs.step(np.zeros(NUM_ENVS, np.int64))[3]
    assert truncations[1:].all()


def test_a_dead_worker_is_started_again_and_health_says_so(faulty: RunningServer, vector: MakeVector) -> None:
    kill_workers(faulty)
    envs = vector(8)
    envs.reset()


def test_a_reset_that_meets_a_dead_worker_makes_its_envs_anew(faulty: RunningServer, vector: MakeVector) -> None:
    envs = vector(NUM_ENVS)
    envs.reset(seed=10)
    for pid in worker_pids(faulty):
        os.kill(pid, signal.SIGKILL)
    obs, _ = envs.reset(seed=10)
    assert obs[:, 0].tolist() == [0.0] * NUM_ENVS
    assert envs.step(np.zeros(NUM_ENVS, np.int64))[0][:, 0].tolist() == [1.0] * NUM_ENVS
