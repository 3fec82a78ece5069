"""Envs that do to their worker what they should not: what their client is told, and that others notice nothing."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError, EnvFault
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.serving import serving, worker_pids
from multiserverrl.wire import frames
from multiserverrl.wire.messages import Refused, Reset, Step
from multiserverrl.wire.trees import pack_tree
from tests.server.support import RawSession, request

UNRULY = "multiserverrl.testing.unruly:Unruly"
MAX_MB = 120
Seat = Callable[..., VirtualVectorEnv]


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with serving(UNRULY, count=16, step_deadline_s=1.0, max_worker_mb=MAX_MB, allow_arg="at_make") as running:
        yield running


@pytest.fixture
def seat(server: RunningServer) -> Iterator[Seat]:
    """One env that goes wrong in its third step; lent, or through the front."""
    with contextlib.ExitStack() as opened:

        def make(how: str, is_lent: bool = True, **options: Any) -> VirtualVectorEnv:
            envs = VirtualVectorEnv(server.url, None, 1, on_fault="truncate", checksum=not is_lent)
            opened.callback(envs.close)
            envs.reset(seed=1, options={"how": how, "at": 3, "length": 1000, **options})
            for _ in range(2):
                envs.step([0])
            return envs

        yield make


def health_of(server: RunningServer) -> Any:
    return request(server.url, "GET", "/health").json


def fault_of(answer: Any) -> tuple[str, str]:
    told = answer[4]["multiserverrl"]
    assert answer[3][0] and answer[1][0] == 0
    return str(told["fault"][0]), str(told["traceback"][0])


@pytest.mark.parametrize(
    ("how", "is_lent", "cause", "words"),
    [
        ("segfault", True, "signal SIGSEGV", "in string_at"),
        ("say_exit", False, "exit code 3", "these are my last words"),
        (
            "hog",
            True,
            f"more than 1.5 times --max-worker-mb {MAX_MB}; if its envs need that much, give a larger --max-worker-mb",
            "",
        ),
        ("spin", False, "deadline", "envs.py"),  # where it was
        ("leave", True, "SystemExit: the script says: leave", "_leave"),
        ("leave", False, "SystemExit: the script says: leave", "_leave"),
        ("mute", True, "_MuteError: (its message could not be had)", "_mute"),
    ],
)
def test_the_cause_and_the_last_words_reach_the_client(
    seat: Seat, how: str, is_lent: bool, cause: str, words: str
) -> None:
    envs = seat(how, is_lent)
    fault, printed = fault_of(envs.step([0]))
    assert cause in fault and words in printed
    assert envs.step([0])[0][0, 0] == 0 and envs.step([0])[0][0, 0] == 1


def test_what_is_raised_bears_the_last_words_too(server: RunningServer) -> None:
    env = VirtualEnv(server.url)
    env.reset(options={"how": "say_exit", "at": 1})
    with pytest.raises(EnvFault, match="exit code 3") as caught:
        env.step(0)
    assert "these are my last words" in caught.value.remote_traceback
    env.close()


def test_an_error_of_any_size_is_told_in_short(seat: Seat) -> None:
    fault, printed = fault_of(seat("long").step([0]))
    assert fault.startswith("ValueError: yyy") and len(fault) < 5000 and len(printed) < 40_000


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_env_may_print_as_much_as_it_likes(seat: Seat, server: RunningServer, stream: str) -> None:
    restarts = health_of(server)["restarts"]
    envs = seat("flood", mb=20, stream=stream)
    assert [envs.step([0])[0][0, 0] for _ in range(2)] == [3, 4]
    assert health_of(server)["restarts"] == restarts


def test_a_worker_in_a_mess_goes_on_makes_new_envs_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("from multiserverrl.testing.unruly import Unruly as Mine\n")
    monkeypatch.chdir(tmp_path)
    with serving("mine.py:Mine", "CartPole-v1", count=4, workers=1) as server:
        pids = worker_pids(server)
        env = VirtualEnv(server.url, "mine.py:Mine")
        env.reset(options={"how": "mess", "at": 1})
        assert [env.step(0)[0][0] for _ in range(2)] == [1, 2]
        for _ in range(2):  # clients that go while the worker writes to them: SIGPIPE would be deadly
            session = RawSession(server.url, "CartPole-v1")
            session.ask(Reset(0, 1))
            session.ask(Step(0, 2), bytes(8))
            for seq in range(3, 200):
                session.connection.send(frames.encode(Step(0, seq), bytes(8)))
            session.connection.drop()
        again = VirtualEnv(server.url, "mine.py:Mine")  # from a path that began in another folder
        again.reset()
        assert worker_pids(server) == pids
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 20 and not Path(f"/proc/{pids[0]}").exists()
        for one in (env, again):
            one.close()


@pytest.mark.parametrize("is_lent", [True, False])
def test_a_worker_that_was_stopped_while_nobody_asked_is_killed_at_the_deadline_of_the_next_step(is_lent: bool) -> None:
    with serving(UNRULY, count=1, workers=1, step_deadline_s=0.5) as server:
        envs = VirtualVectorEnv(server.url, None, 1, on_fault="truncate", checksum=not is_lent)
        envs.reset(seed=1)
        envs.step([0])
        os.kill(worker_pids(server)[0], signal.SIGSTOP)
        began = time.monotonic()
        assert "deadline" in fault_of(envs.step([0]))[0]
        assert 0.5 <= time.monotonic() - began < 10
        envs.close()


def test_an_env_that_is_never_made_is_refused_at_the_deadline_and_others_go_on() -> None:
    with serving(UNRULY, count=2, workers=1, start_deadline_s=1.0, allow_arg="at_make") as server:
        with pytest.raises(EnvFault, match=r"could not be made: .* deadline"):
            VirtualEnv(server.url, arguments={"at_make": "spin"})
        env = VirtualEnv(server.url)
        env.reset()
        env.close()


def test_a_reset_that_failed_is_none_though_its_worker_died_thereafter() -> None:
    with serving(UNRULY, count=1, workers=1) as server:
        session = RawSession(server.url, UNRULY)
        session.ask(Reset(0, 1, [3], pack_tree({"how": "reset", "at": 1})))
        session.ask(Step(0, 2), bytes(8))
        failed = session.ask(Reset(0, 3))[0]
        assert isinstance(failed, Refused) and "fail at reset" in failed.message
        os.kill(worker_pids(server)[0], signal.SIGKILL)
        with pytest.raises(OSError, match=r"."):
            session.connection.receive()
        session.connection.drop()
        again = session.resumed()
        told = again.ask(Step(0, 4), bytes(8))[0]
        assert isinstance(told, Refused) and "reset() before" in told.message
        assert again.ask(Reset(0, 4))[0].seq == 4
        again.connection.close()


# -- too large -----------------------------------------------------------------------------------


def await_worn(server: RunningServer) -> None:
    until = time.monotonic() + 10
    while not health_of(server)["worn"]:
        assert time.monotonic() < until, health_of(server)


def test_a_worker_that_grew_is_renewed_when_no_episode_runs_on_it_and_not_before() -> None:
    settings: dict[str, Any] = {"max_worker_mb": 100, "allow_arg": "at_make"}
    with serving(UNRULY, count=2, workers=1, **settings) as server:
        (pid,) = worker_pids(server)
        other = VirtualEnv(server.url)
        other.reset(seed=1)
        leaking = VirtualEnv(server.url, arguments={"at_make": "leak:15"})
        leaking.reset(seed=1)
        for _ in range(7):
            leaking.step(0)
        await_worn(server)
        leaking.reset(seed=1)  # the other's episode runs
        assert worker_pids(server) == [pid] and other.step(0)[0][0] == 1
        for _ in range(6):
            other.step(0)
        info = leaking.reset(seed=1)[1]
        assert "had grown to" in info["multiserverrl"]["renewed"] and worker_pids(server) != [pid]
        assert leaking.step(0)[0][0] == 1
        assert other.reset(seed=1)[0][0] == 0 and other.step(0)[0][0] == 1
        assert health_of(server)["status"] == "ok"
        for env in (leaking, other):
            env.close()


@pytest.mark.parametrize("is_lent", [True, False])
def test_envs_that_reset_themselves_are_renewed_when_all_have_ended(is_lent: bool) -> None:
    settings: dict[str, Any] = {"max_worker_mb": 200, "allow_arg": "at_make"}
    with serving(UNRULY, count=2, workers=1, **settings) as server:
        arguments = {"at_make": "leak:9"}
        envs = VirtualVectorEnv(
            server.url, None, 2, on_fault="truncate", arguments=arguments, checksum=not is_lent
        )  # fmt: skip
        envs.reset(seed=1)
        for _ in range(12):  # an episode, the step that is a reset, and half of another
            envs.step([0, 0])
        await_worn(server)
        ends = [envs.step([0, 0])[2].all() for _ in range(3)]
        assert ends == [False, False, True]
        obs, rewards, terms, truncs, infos = envs.step([0, 0])  # the step that is a reset
        assert obs[:, 0].tolist() == [0, 0] and not rewards.any() and not (terms | truncs).any()
        assert all("had grown to" in why for why in infos["multiserverrl"]["renewed"])
        assert "fault" not in infos["multiserverrl"] and envs.step([0, 0])[0][:, 0].tolist() == [1, 1]
        envs.close()


def test_a_limit_that_no_worker_can_keep_is_refused_at_start() -> None:
    with pytest.raises(ConfigError, match=r"--max-worker-mb 3: an env worker takes \d+ MB before it has any env"):
        with serving("CartPole-v1", workers=1, max_worker_mb=3):
            pass


def test_what_an_env_started_ends_with_its_worker(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import subprocess\nfrom multiserverrl.testing.unruly import Unruly\n"
        "class Mine(Unruly):\n    def reset(self, *, seed=None, options=None):\n"
        "        self.simulator = subprocess.Popen(['sleep', '1000'])\n"
        "        obs, _ = super().reset(seed=seed, options=options)\n"
        "        return obs, {'pid': self.simulator.pid}\n"
    )
    with serving(f"{tmp_path}/mine.py:Mine", count=1, workers=1) as server:
        env = VirtualEnv(server.url)
        pid = env.reset(options={"how": "say_exit", "at": 1})[1]["pid"]
        assert Path(f"/proc/{pid}").exists()
        with pytest.raises(EnvFault):
            env.step(0)
        while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
            os.sched_yield()
        env.close()


def test_an_env_that_was_made_anew_can_be_shown() -> None:
    with serving("CartPole-v1", count=2, workers=1) as running:
        envs = VirtualVectorEnv(running.url, None, 2, render_mode="rgb_array", on_fault="truncate")
        envs.reset(seed=1)
        envs.step(np.zeros(2, int))
        os.kill(worker_pids(running)[0], signal.SIGKILL)
        pictures = envs.render()
        assert pictures is not None and [picture.shape for picture in pictures] == [(400, 600, 3)] * 2
        assert envs.step(np.zeros(2, int))[3].all()
        assert all(frame is not None for frame in envs.render() or [None])
        envs.close()
