"""server/orphans.py: what the env workers of a dead front left is ended, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.server.orphans import MARK_VARIABLE, end_marked, new_mark
from multiserverrl.testing.serving import serving

SPAWNING = "tests.server.spawning_env:Spawning"
PATIENCE_S = 30.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes tell of their environment on Linux")
Sleeper = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process of this one, with a mark or without."""
    started: list[subprocess.Popen[bytes]] = []

    def start(mark: str = "", *, new_session: bool = False) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **({MARK_VARIABLE: mark} if mark else {})}
        started.append(subprocess.Popen(["sleep", "1000"], env=environment, start_new_session=new_session))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def is_over(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_only_those_who_bear_the_mark_are_ended(sleeper: Sleeper) -> None:
    mark = new_mark()
    ours, anothers, unmarked, daemon = (
        sleeper(mark), sleeper(new_mark()), sleeper(), sleeper(mark, new_session=True),
    )  # fmt: skip
    end_marked([mark])
    assert ours.wait(PATIENCE_S) == -signal.SIGKILL
    assert [process.poll() for process in (anothers, unmarked, daemon)] == [None] * 3


def test_without_a_mark_nobody_is_ended(sleeper: Sleeper) -> None:
    process = sleeper(new_mark())
    end_marked([])
    assert process.poll() is None


@pytest.mark.parametrize("is_stopped", [False, True], ids=["the next front", "the end"])
def test_what_an_env_started_ends_when_its_front_is_killed(sleeper: Sleeper, is_stopped: bool) -> None:
    mine = sleeper()
    with serving(SPAWNING, count=1, workers=1) as server:
        env = VirtualEnv(server.url, on_lost="raise")
        pid = int(env.reset()[0][0])
        assert not is_over(pid)
        os.kill(server.pids()[0], signal.SIGKILL)
        if is_stopped:
            server.stop()
        deadline = time.monotonic() + PATIENCE_S
        while not is_over(pid):
            assert time.monotonic() < deadline, "what an env started is left"
            server.poll()
        assert mine.poll() is None
        env._remote.link._drop()
        env.close()
