"""VirtualEnv against real servers: as its local twin, and what happens when it is misused."""

import os
import select
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RecordEpisodeStatistics

import multiserverrl as msr
from multiserverrl.client.env import VirtualEnv
from multiserverrl.errors import ActionError, ConfigError, EnvFault, SessionLost, UnknownEnvError
from multiserverrl.server.run import RunningServer
from multiserverrl.testing.contract import ENV_CLAIMS, assert_same, trajectory
from multiserverrl.testing.envs import DictObs, Scripted, TextObs
from tests.client.conftest import ENVS

LOCAL: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "CartPole-v1": lambda: gymnasium.make("CartPole-v1"),
    "FrozenLake-v1": lambda: gymnasium.make("FrozenLake-v1"),
    "Blackjack-v1": lambda: gymnasium.make("Blackjack-v1"),
    "Pendulum-v1": lambda: gymnasium.make("Pendulum-v1"),
    f"{ENVS}:DictObs": DictObs,
    f"{ENVS}:TextObs": TextObs,
}
SCRIPTED = f"{ENVS}:Scripted"


@pytest.mark.parametrize("claim", ENV_CLAIMS, ids=lambda claim: claim.__name__)
@pytest.mark.parametrize("env_id", LOCAL)
def test_a_virtual_env_is_as_its_local_twin(url: str, env_id: str, claim: Any) -> None:
    claim(lambda: VirtualEnv(url, env_id), LOCAL[env_id])


def test_gymnasium_makes_it_by_name(url: str) -> None:
    env = gymnasium.make("multiserverrl:Virtual-v0", url=url, env_id="CartPole-v1")
    local = gymnasium.make("CartPole-v1")
    assert isinstance(env.unwrapped, msr.VirtualEnv)
    assert_same(trajectory(env, 30), trajectory(local, 30))
    env.close()
    local.close()


def test_gymnasiums_wrappers_go_around_it(url: str) -> None:
    env = RecordEpisodeStatistics(VirtualEnv(url, SCRIPTED))
    told = trajectory(env, 7)
    assert told[-2][4]["episode"]["l"] == 7
    env.close()


@pytest.mark.parametrize("mode", ["rgb_array", "ansi"])
def test_render_fetches_what_the_local_env_would_show(url: str, mode: str) -> None:
    env, local = VirtualEnv(url, SCRIPTED, render_mode=mode), Scripted(render_mode=mode)
    for one in (env, local):
        one.reset(seed=1)
    for _ in range(3):
        assert_same(env.render(), local.render())
        assert_same(env.render(), local.render(), "a second look")
        env.step(1)
        local.step(np.int64(1))
    env.close()


def test_a_frame_of_cartpole_is_equal_to_the_local_one(url: str) -> None:
    pytest.importorskip("pygame")
    env, local = (
        VirtualEnv(url, "CartPole-v1", render_mode="rgb_array"),
        gymnasium.make("CartPole-v1", render_mode="rgb_array"),
    )
    for one in (env, local):
        one.reset(seed=5)
        one.step(1)
    assert env.metadata["render_fps"] == local.metadata["render_fps"]
    assert_same(env.render(), local.render())
    env.close()
    local.close()


def test_without_a_render_mode_there_is_no_frame(url: str) -> None:
    env = VirtualEnv(url, SCRIPTED)
    assert env.render() is None
    env.close()


@pytest.mark.parametrize("mode", ["human", "wrong"])
def test_a_render_mode_that_cannot_be_is_refused(url: str, mode: str) -> None:
    with pytest.raises(ConfigError, match=f"render_mode.*{mode}"):
        VirtualEnv(url, SCRIPTED, render_mode=mode)


def test_seed_and_options_reach_the_real_env(url: str) -> None:
    env = VirtualEnv(url, SCRIPTED)
    _, info = env.reset(seed=3, options={"length": 2, "nested": {"array": np.arange(3), "pair": (1, 2)}})
    assert info["options"] == ["length", "nested"]
    assert [env.step(0)[2] for _ in range(2)] == [False, True]
    env.close()


def test_the_id_may_be_left_out_only_where_one_is_served(url: str) -> None:
    with pytest.raises(UnknownEnvError, match=r"CartPole-v1.*say which"):
        VirtualEnv(url)


def test_an_unknown_id_is_answered_with_close_matches(url: str) -> None:
    with pytest.raises(UnknownEnvError, match="did you mean CartPole-v1"):
        VirtualEnv(url, "CartPol-v1")


@pytest.mark.parametrize(
    ("env_id", "action", "words"),
    [
        ("CartPole-v1", 2, "not a member"),
        ("CartPole-v1", -1, "not a member"),
        ("CartPole-v1", [0, 1], "shape"),
        ("CartPole-v1", 0.5, "float64"),
        ("CartPole-v1", None, "object"),
        ("Pendulum-v1", np.array([np.nan], np.float32), "NaN"),
        ("Pendulum-v1", np.zeros(2, np.float32), "shape"),
        ("Pendulum-v1", np.array(["1"]), "float32"),
        (f"{ENVS}:DictObs", {"turn": np.zeros(2, np.float32)}, "keys"),
        (f"{ENVS}:DictObs", {"turn": np.zeros(2, np.float32), "gear": 3}, r"'gear'.*not a member"),
        (f"{ENVS}:TextObs", "d", "not in the space's charset"),
    ],
)
def test_a_wrong_action_is_refused_and_the_session_lives_on(url: str, env_id: str, action: Any, words: str) -> None:
    env, local = VirtualEnv(url, env_id), LOCAL[env_id]()
    assert_same(env.reset(seed=9), local.reset(seed=9))
    with pytest.raises(ActionError, match=words):
        env.step(action)
    env.action_space.seed(4)
    good = env.action_space.sample()
    got, wanted = env.step(good), local.step(good)
    assert_same((got[0], got[1], got[4]), (wanted[0], float(wanted[1]), wanted[4]))
    env.close()
    local.close()


def test_actions_beyond_a_boxs_bounds_pass_as_they_do_locally(url: str) -> None:
    env, local = VirtualEnv(url, "Pendulum-v1"), gymnasium.make("Pendulum-v1")
    env.reset(seed=2)
    local.reset(seed=2)
    far = np.array([50.0], np.float32)
    assert_same(env.step(far)[0], local.step(far)[0])
    env.close()


def test_an_env_that_raises_is_an_env_fault_and_reset_works(url: str) -> None:
    env = VirtualEnv(url, SCRIPTED)
    env.reset(seed=1, options={"how": "raise", "at": 2})
    env.step(0)
    with pytest.raises(EnvFault, match="ValueError: the script says: fail") as caught:
        env.step(0)
    assert "_misbehave" in caught.value.remote_traceback and "Traceback" in str(caught.value)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(0)
    local = Scripted()
    assert_same(trajectory(env, 10), trajectory(local, 10))
    env.close()


def test_a_closed_env_says_so(url: str) -> None:
    env = VirtualEnv(url, "CartPole-v1")
    env.reset()
    env.close()
    for call in (env.reset, lambda: env.step(0)):
        with pytest.raises(SessionLost, match="closed"):
            call()


def test_close_frees_the_env_at_once(server: RunningServer) -> None:
    for _ in range(2):
        envs = [VirtualEnv(server.url, "CartPole-v1") for _ in range(16)]
        for env in envs:
            env.close()


def test_the_child_of_a_fork_opens_a_session_of_its_own(url: str) -> None:
    env = VirtualEnv(url, SCRIPTED)
    env.reset(seed=1)
    before = env.step(1)[0]
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover - in the child
        try:
            os.write(write, _in_the_child(env).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert select.select([read], [], [], 20)[0]
    told = os.read(read, 1000).decode()
    os.close(read)
    os.waitpid(child, 0)
    assert told == "SessionLost 1.0"
    after = env.step(1)[0]  # the parent's episode goes on, untouched by the child's
    assert (before[0], after[0]) == (1.0, 2.0)
    env.close()


def _in_the_child(env: VirtualEnv) -> str:
    try:
        env.step(0)
        words = "it stepped its parent's env"
    except SessionLost as error:
        words = type(error).__name__
    env.reset(seed=2)
    steps = env.step(0)[0][0]
    env.close()
    return f"{words} {steps}"
