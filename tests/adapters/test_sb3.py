"""Stable-Baselines3 on remote environments: as its own DummyVecEnv on local ones, and it learns."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from multiserverrl import EnvFault, VirtualEnv
from multiserverrl.adapters.sb3 import SB3VecEnv
from multiserverrl.errors import ConfigError
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.envs import Scripted
from multiserverrl.testing.serving import serving
from tests.adapters.conftest import SCRIPTED, SWITCHES, lose_sessions

pytestmark = pytest.mark.trainers

LOCAL: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "CartPole-v1": lambda: gymnasium.make("CartPole-v1"),
    "Pendulum-v1": lambda: gymnasium.make("Pendulum-v1"),
    "FrozenLake-v1": lambda: gymnasium.make("FrozenLake-v1"),
    SCRIPTED: Scripted,
}


def trajectory(envs: VecEnv, steps: int) -> list[Any]:
    """Everything that SB3 can see of random steps after a seeded reset."""
    envs.seed(7)
    envs.action_space.seed(7)
    seen: list[Any] = [envs.reset(), list(envs.reset_infos)]
    for _ in range(steps):
        actions = np.array([envs.action_space.sample() for _ in range(envs.num_envs)])
        seen += [*envs.step(actions), [dict(info) for info in envs.reset_infos]]
    return plain(seen)


def plain(seen: Any) -> Any:
    """Numbers as Python floats: vector infos keep them in arrays, FrozenLake's `prob` even in one of integers."""
    if isinstance(seen, list | tuple):
        return [plain(one) for one in seen]
    if isinstance(seen, dict):
        return {key: plain(value) for key, value in seen.items() if key != "prob"}
    return float(seen) if isinstance(seen, int | float | np.number | np.bool_) else seen


@pytest.mark.parametrize("env_id", LOCAL)
def test_it_moves_as_a_dummy_vec_env(url: str, env_id: str) -> None:
    envs, local = SB3VecEnv(url, env_id, 3), DummyVecEnv([LOCAL[env_id]] * 3)
    assert_same(trajectory(envs, 210), trajectory(local, 210))
    envs.close()


def test_an_episode_cut_by_its_time_limit_says_so(url: str) -> None:
    envs = SB3VecEnv(url, "Pendulum-v1", 2)
    first = envs.reset()
    for _ in range(200):
        observations, _, dones, infos = envs.step(np.zeros((2, 1), np.float32))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True]
    assert all(info["terminal_observation"].shape == first[0].shape for info in infos)
    assert not np.array_equal(infos[0]["terminal_observation"], observations[0])
    envs.close()


def test_ppo_learns_on_it(url: str) -> None:
    envs = VecMonitor(SB3VecEnv(url, "CartPole-v1", 8))
    model = PPO(
        "MlpPolicy", envs, n_steps=32, batch_size=256, gae_lambda=0.8, gamma=0.98, n_epochs=20,
        learning_rate=1e-3, seed=1, device="cpu",
    )  # fmt: skip
    before, _ = evaluate_policy(model, envs, n_eval_episodes=16)
    model.learn(16_384)
    after, _ = evaluate_policy(model, envs, n_eval_episodes=16)
    assert before < 100 < after
    envs.close()


def test_dqn_fills_its_replay_with_what_really_followed(url: str) -> None:
    envs = SB3VecEnv(url, SCRIPTED, 2)
    model = DQN("MlpPolicy", envs, learning_starts=20, train_freq=4, buffer_size=400, seed=1, device="cpu")
    model.learn(120)
    buffer: Any = model.replay_buffer
    taken = slice(0, buffer.pos)
    assert (buffer.next_observations[taken, :, 0] == buffer.observations[taken, :, 0] + 1).all()
    assert (buffer.dones[taken] == (buffer.next_observations[taken, :, 0] == 7)).all()
    envs.close()


def test_dicts_and_switches_reach_a_multi_input_policy(url: str) -> None:
    envs = SB3VecEnv(url, SWITCHES, 4)
    model = PPO(
        "MultiInputPolicy", envs, n_steps=32, batch_size=64, gamma=0.0, learning_rate=3e-3, seed=1, device="cpu"
    )
    before, _ = evaluate_policy(model, VecMonitor(envs), n_eval_episodes=8)
    model.learn(1_024)
    after, _ = evaluate_policy(model, VecMonitor(envs), n_eval_episodes=8)
    assert before < 8 < after <= 10
    envs.close()


def test_a_fault_ends_the_run(url: str) -> None:
    envs = SB3VecEnv(url, SCRIPTED, 2)
    envs.set_options({"how": "raise", "at": 3})
    model = PPO("MlpPolicy", envs, n_steps=16, batch_size=32, n_epochs=1, device="cpu")
    with pytest.raises(EnvFault, match="the script says: fail"):
        model.learn(64)
    envs.close()


def test_a_fault_that_is_to_be_lived_with_is_a_truncation_and_a_warning(url: str) -> None:
    envs = SB3VecEnv(url, SCRIPTED, 2, on_fault="truncate")
    envs.set_options({"how": "raise", "at": 2, "seed": 5})
    envs.seed(5)
    envs.reset()
    before, _, _, _ = envs.step(np.zeros(2, np.int64))
    with pytest.warns(RuntimeWarning, match="env 0 failed"):
        observations, rewards, dones, infos = envs.step(np.zeros(2, np.int64))
    assert dones.tolist() == [True, False] and rewards[0] == 0
    assert infos[0]["TimeLimit.truncated"] and "fail" in infos[0]["multiserverrl"]["fault"]
    assert_same(infos[0]["terminal_observation"], before[0])
    assert observations[:, 0].tolist() == [0, 2]
    envs.close()


def test_attributes_are_reached_as_far_as_the_operator_allows(url: str) -> None:
    envs = SB3VecEnv(url, SCRIPTED, 3, render_mode="rgb_array")
    envs.reset()
    envs.step(np.zeros(3, np.int64))
    assert envs.get_attr("steps", indices=[0, 2]) == [1, 1]
    envs.set_attr("setting", 4)
    assert envs.env_method("setting") == [4, 4, 4]
    assert envs.has_attr("steps") and not envs.has_attr("options")
    with pytest.raises(ConfigError, match="all 3 envs"):
        envs.set_attr("setting", 5, indices=1)
    envs.close()


def test_frames_are_fetched_when_asked_for(url: str) -> None:
    envs = SB3VecEnv(url, SCRIPTED, 2, render_mode="rgb_array")
    envs.reset()
    frame = envs.render()
    assert frame is not None and frame.shape == (8, 6, 3)  # two frames, tiled
    envs.close()


def test_options_that_differ_between_envs_are_refused(url: str) -> None:
    envs = SB3VecEnv(url, SCRIPTED, 2)
    envs.set_options([{"length": 1}, {"length": 2}])
    with pytest.raises(ConfigError, match="set_options"):
        envs.reset()
    envs.close()


def test_one_virtual_env_passes_sb3s_own_check(url: str) -> None:
    env = VirtualEnv(url, "CartPole-v1")
    check_env(env)
    env.close()


def test_a_lost_session_that_is_to_be_lived_with_is_a_truncation_and_a_warning() -> None:
    with serving(SCRIPTED, count=2, workers=1) as server:
        envs = SB3VecEnv(server.url, SCRIPTED, 2, on_lost="truncate")
        envs.reset()
        before, _, _, _ = envs.step(np.zeros(2, np.int64))
        lose_sessions(server)
        with pytest.warns(RuntimeWarning, match="was lost with its session"):
            observations, rewards, dones, infos = envs.step(np.zeros(2, np.int64))
        assert dones.all() and not rewards.any() and infos[0]["multiserverrl"]["lost"]
        assert_same(infos[0]["terminal_observation"], before[0])
        assert observations[:, 0].tolist() == [0, 0]
        envs.close()


def test_how_to_get_in_reaches_the_virtual_env(url: str) -> None:
    refused = {"ca_file": "/ca.pem", "fingerprint": "ab" * 32}
    for name, value in refused.items():  # they have come where plain HTTP is known to need none
        with pytest.raises(ConfigError, match="ca_file and fingerprint are for https"):
            SB3VecEnv(url, SCRIPTED, 2, **{name: value})
    ways_in = {"token": "t", "owner": "a-key-of-my-own-"}
    envs = SB3VecEnv(url, SCRIPTED, 2, **ways_in)  # a server without TLS and token, which need none of it
    config = envs.envs._remotes[0].config
    assert {name: getattr(config, name) for name in ways_in} == ways_in
    envs.close()
