"""Envs that raise, hang, crash and lie; workers that are killed: what is lost, and what is not."""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from multiserverrl.client.env import VirtualEnv
from multiserverrl.client.vector import VirtualVectorEnv
from multiserverrl.errors import ConfigError, EnvFault, SpaceError, UnknownEnvError
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.envs import Scripted, count_of
from multiserverrl.testing.serving import serving
from tests.server.conftest import ENVS

SCRIPTED = f"{ENVS}:Scripted"
MODES = ("next_step", "same_step", "disabled")
BAD = 2  # the row of the env that goes wrong; with seeds 10, 11, 12, 13 its seed is 12
NUM_ENVS = 4
MakeVector = Callable[..., VirtualVectorEnv]


@pytest.fixture(scope="module")
def faulty() -> Iterator[RunningServer]:
    """A server whose workers may be killed: two, with two envs of a session of four each, and short deadlines."""
    with serving(SCRIPTED, count=8, step_deadline_s=1.0, allow_arg="at_make") as running:
        yield running


@pytest.fixture
def vector(faulty: RunningServer) -> Iterator[MakeVector]:
    """Opens vector envs on the server, and closes them whatever happens."""
    with contextlib.ExitStack() as opened:

        def make(num_envs: int, **settings: Any) -> VirtualVectorEnv:
            envs = VirtualVectorEnv(faulty.url, SCRIPTED, num_envs, **settings)
            opened.callback(envs.close)
            return envs

        yield make


@pytest.fixture
def single(faulty: RunningServer) -> Iterator[VirtualEnv]:
    env = VirtualEnv(faulty.url, SCRIPTED)
    yield env
    env.close()


def script(how: str, at: int, **more: Any) -> dict[str, Any]:
    return {"how": how, "at": at, "seed": 10 + BAD, "length": 6, **more}


def told_by(envs: Any, options: dict[str, Any], num_steps: int = 12) -> list[Any]:
    """Each step's observations, rewards, ends and infos; ended envs are reset where nothing else does it."""
    envs.reset(seed=10, options=dict(options))
    told = []
    for step in range(num_steps):
        told.append(
            tuple(
                np.copy(part) if isinstance(part, np.ndarray) else part for part in envs.step(np.arange(NUM_ENVS) % 2)
            )
        )
        ended = told[-1][2] | told[-1][3]
        if envs.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            envs.reset(options={"reset_mask": ended.copy(), "length": 6})
        assert step >= 0
    return told


def undisturbed(mode: str) -> list[Any]:
    local = SyncVectorEnv([Scripted] * NUM_ENVS, autoreset_mode=AutoresetMode[mode.upper()])
    return told_by(local, {"length": 6})


def rows_of(told: list[Any], rows: list[int]) -> list[Any]:
    """Of the arrays alone: what the envs in `rows` saw."""
    return [tuple(part[rows] for part in step[:4]) for step in told]


@pytest.mark.parametrize(
    ("how", "mode"),
    [
        *[(how, mode) for how in ("raise", "reward", "kill") for mode in MODES],
        ("exit", "next_step"),
        ("spin", "same_step"),
    ],
)
def test_a_truncated_fault_leaves_the_other_envs_untouched(vector: MakeVector, how: str, mode: str) -> None:
    envs = vector(NUM_ENVS, autoreset_mode=mode, on_fault="truncate")
    told, wanted = told_by(envs, script(how, at=3)), undisturbed(mode)
    faults = [step for step, one in enumerate(told) if "multiserverrl" in one[4]]
    assert faults == [2]
    dies = how in ("kill", "exit", "spin")
    lost = [row for row in range(NUM_ENVS) if told[2][3][row]]
    assert lost == ([0, 2] if dies else [BAD]) or lost == ([2, 3] if dies else [BAD])
    others = [row for row in range(NUM_ENVS) if row not in lost]
    assert_same(rows_of(told, others), rows_of(wanted, others))
    obs, rewards, terminations, _, infos = told[2]
    assert rewards[lost].tolist() == [0.0] * len(lost) and not terminations[lost].any()
    last = infos["final_obs"] if mode == "same_step" else obs
    assert [last[row].tolist() for row in lost] == [told[1][0][row].tolist() for row in lost]
    words = {"raise": "ValueError: the script says: fail", "reward": "could not convert", "kill": "SIGKILL",
             "exit": "exit code 3", "spin": "deadline"}[how]  # fmt: skip
    assert all(words in infos["multiserverrl"]["fault"][row] for row in lost)


@pytest.mark.parametrize(("how", "mode"), [*[("raise", mode) for mode in MODES], ("kill", "next_step")])
def test_by_default_a_fault_is_raised_and_the_session_goes_on(vector: MakeVector, how: str, mode: str) -> None:
    envs = vector(NUM_ENVS, autoreset_mode=mode)
    envs.reset(seed=10, options=script(how, at=1))
    with pytest.raises(EnvFault, match="fail" if how == "raise" else "SIGKILL") as caught:
        envs.step(np.zeros(NUM_ENVS, np.int64))
    assert bool(caught.value.remote_traceback) == (how == "raise")
    assert_same(rows_of(told_by(envs, {"length": 6}), [0, 1, 2, 3]), rows_of(undisturbed(mode), [0, 1, 2, 3]))


def test_a_reset_that_raises_is_an_env_fault_and_the_next_one_works(single: VirtualEnv) -> None:
    single.reset(seed=1, options={"how": "reset", "at": 1})
    single.step(0)
    with pytest.raises(EnvFault, match="fail at reset"):
        single.reset(seed=1)
    single.reset(seed=1)
    assert single.step(0)[0][0] == 1.0


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_an_autoreset_that_raises_is_a_fault_of_that_env_alone(vector: MakeVector, mode: str) -> None:
    envs = vector(NUM_ENVS, autoreset_mode=mode, on_fault="truncate")
    told, wanted = told_by(envs, script("reset", at=6)), undisturbed(mode)
    others = [row for row in range(NUM_ENVS) if row != BAD]
    assert_same(rows_of(told, others), rows_of(wanted, others))
    faults = [step for step, one in enumerate(told) if "multiserverrl" in one[4]]
    assert faults == [5 if mode == "same_step" else 6] and told[faults[0]][3][BAD]


def test_an_info_that_cannot_be_carried_is_named_and_the_rest_kept(single: VirtualEnv) -> None:
    single.reset(options={"how": "info", "at": 1})
    info = single.step(0)[4]
    assert info["steps"] == 1 and "thing" in info["multiserverrl"]["not_carried"]


def test_what_an_env_prints_disturbs_nothing(single: VirtualEnv, capfd: pytest.CaptureFixture[str]) -> None:
    single.reset(options={"how": "print", "at": 1})
    assert single.step(0)[0][0] == 1.0


def test_an_env_that_cannot_be_made_anew_is_a_fault_until_it_can(vector: MakeVector, tmp_path: Path) -> None:
    marker = tmp_path / "made"
    arguments = {"at_make": f"second:{marker}"}
    marker.unlink(missing_ok=True)
    with pytest.raises(EnvFault, match="second make"):  # the probe makes the first
        vector(1, arguments=arguments)
    marker.unlink()
    envs = vector(1, arguments=arguments, on_fault="truncate", autoreset_mode="same_step")
    envs.reset(seed=12, options=script("raise", at=1))
    for _ in range(2):
        assert envs.step(np.zeros(1, np.int64))[3].all()
    marker.unlink()
    assert envs.step(np.zeros(1, np.int64))[3].all()  # it could be made: its next episode begins with this answer
    obs, _, _, truncations, _ = envs.step(np.zeros(1, np.int64))
    assert (obs[0, 0], truncations[0]) == (1.0, False)


@pytest.mark.parametrize(
    ("env_id", "error", "words"),
    [
        ("CartPol-v1", UnknownEnvError, "did you mean .*CartPole-v1"),
        ("json:Zzzzzzzz-v0", UnknownEnvError, r"json registers none so named: make it in a file"),
        ("nowhere.at.all:Env-v0", UnknownEnvError, "cannot be imported"),
        ("no/such/file.py:Env", UnknownEnvError, "no file no/such/file.py"),
        (f"{ENVS}:Nothing-v0", UnknownEnvError, "Nothing-v0"),
        (f"{ENVS}:NotAnEnv", ConfigError, "not a gymnasium.Env"),
        (f"{ENVS}:CustomSpace", SpaceError, "observation space.*_Colours.*cannot be carried"),
    ],
)
def test_what_cannot_be_served_is_refused_at_start(env_id: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        with serving(env_id, workers=1):
            pass


def test_an_old_gym_env_is_refused_and_told_of_shimmy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gym"
    package.mkdir()
    (package / "__init__.py").write_text("class Env:\n    pass\n")
    (tmp_path / "old.py").write_text("import gym\nclass Old(gym.Env):\n    pass\n\ndef make():\n    return Old()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    for name in ("Old", "make"):
        with pytest.raises(ConfigError, match="shimmy"), serving(f"{tmp_path}/old.py:{name}", workers=1):
            pass


def test_an_env_in_a_file_is_served_with_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("LENGTH = 3\n")
    (tmp_path / "mine.py").write_text(
        "import beside\nfrom multiserverrl.testing.envs import Scripted\n"
        "class Mine(Scripted):\n    def reset(self, *, seed=None, options=None):\n"
        "        return super().reset(seed=seed, options={'length': beside.LENGTH})\n"
    )
    with serving(f"{tmp_path}/mine.py:Mine", workers=1) as server:
        env = VirtualEnv(server.url)
        env.reset()
        assert [env.step(0)[2] for _ in range(3)] == [False, False, True]
        env.close()


# -- opening and going away --------------------------------------------------------------------


def test_a_client_that_goes_away_while_it_waits_for_envs_takes_none(tmp_path: Path) -> None:
    with serving(SCRIPTED, count=1, workers=1) as server:
        holder = VirtualEnv(server.url)
        holder.reset()
        waiting = threading.Thread(target=lambda: _open_and_go(server.url))
        waiting.start()
        waiting.join()
        holder.close()
        for _ in range(2):
            env = VirtualEnv(server.url, wait_s=5.0)
            env.reset()
            env.close()


def _open_and_go(url: str) -> None:
    from multiserverrl.client.transport import Address, Connection
    from multiserverrl.wire import frames
    from multiserverrl.wire.messages import PROTOCOL_VERSION, Open

    connection = Connection(Address.parse(url), 5.0)
    connection.send(frames.encode(Open(PROTOCOL_VERSION, wait_s=60.0)))
    connection.drop()


def test_a_client_that_waits_gets_the_envs_as_soon_as_they_are_free(url: str, tmp_path: Path) -> None:
    with serving(SCRIPTED, count=1, workers=1) as server:
        holder = VirtualEnv(server.url)
        holder.reset(options={"path": str(tmp_path / "steps"), "how": "sleep", "at": 1, "sleep_s": 0.2})
        releasing = threading.Thread(target=lambda: (holder.step(0), holder.close()))
        releasing.start()
        env = VirtualEnv(server.url, wait_s=20.0)
        env.reset()
        releasing.join()
        assert count_of(tmp_path / "steps") == 1
        env.close()


def test_the_traceback_names_the_line_of_the_env(single: VirtualEnv) -> None:
    single.reset(options={"how": "raise", "at": 1})
    with pytest.raises(EnvFault) as caught:
        single.step(0)
    assert re.search(r'envs\.py", line \d+, in _misbehave', caught.value.remote_traceback)
