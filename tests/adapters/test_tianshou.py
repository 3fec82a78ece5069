"""tianshou on remote environments: as its own vector env on local ones, and it learns."""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from tianshou.algorithm.modelfree.dqn import DQN, DiscreteQLearningPolicy
from tianshou.algorithm.optim import AdamOptimizerFactory
from tianshou.data import Collector, VectorReplayBuffer
from tianshou.env import BaseVectorEnv, DummyVectorEnv
from tianshou.trainer import OffPolicyTrainerParams
from tianshou.utils.net.common import Net

from multiserverrl import EnvFault, VirtualVectorEnv
from multiserverrl.adapters.tianshou import RemoteEnvWorker, remote_vector_env
from multiserverrl.errors import ConfigError
from multiserverrl.testing.contract import assert_same
from multiserverrl.testing.envs import Scripted
from multiserverrl.testing.serving import serving
from tests.adapters.conftest import SCRIPTED, lose_sessions

pytestmark = pytest.mark.trainers

LOCAL: dict[str, Callable[[], gymnasium.Env[Any, Any]]] = {
    "CartPole-v1": lambda: gymnasium.make("CartPole-v1"),
    "Pendulum-v1": lambda: gymnasium.make("Pendulum-v1"),
    SCRIPTED: Scripted,
}


def trajectory(envs: BaseVectorEnv, steps: int) -> list[Any]:
    """Everything of random steps after a seeded reset; ended envs are reset, as tianshou's collectors do."""
    envs.seed(7)
    seen: list[Any] = [envs.reset(seed=7)[0]]
    space = envs.action_space[0]
    space.seed(7)
    for _ in range(steps):
        *columns, infos = envs.step(np.array([space.sample() for _ in range(len(envs))]))
        seen += [*columns, [{key: float(value) for key, value in info.items()} for info in infos]]
        ended = np.flatnonzero(columns[2] | columns[3])
        if len(ended):
            seen.append(envs.reset(ended)[0])
    return seen


@pytest.mark.parametrize("env_id", LOCAL)
def test_it_moves_as_tianshous_own_vector_env(url: str, env_id: str) -> None:
    envs, local = remote_vector_env(url, env_id, 3), DummyVectorEnv([LOCAL[env_id]] * 3)
    assert_same(trajectory(envs, 210), trajectory(local, 210))
    envs.close()


def dqn(envs: BaseVectorEnv) -> Any:
    space = envs.action_space[0]
    net = Net(state_shape=envs.observation_space[0].shape, action_shape=space.n, hidden_sizes=[64, 64])
    policy = DiscreteQLearningPolicy(model=net, action_space=space, eps_training=0.1, eps_inference=0.0)
    return DQN(
        policy=policy, optim=AdamOptimizerFactory(lr=1e-3), gamma=0.95, n_step_return_horizon=3, target_update_freq=200
    )


def test_dqn_learns_on_it(url: str) -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    training, testing = remote_vector_env(url, "CartPole-v1", 8), remote_vector_env(url, "CartPole-v1", 8)
    algorithm = dqn(training)
    collector = Collector(algorithm, training, VectorReplayBuffer(20_000, 8), exploration_noise=True)
    judge = Collector(algorithm, testing)
    before = judge.collect(n_episode=16, reset_before_collect=True).returns_stat
    result = algorithm.run_training(
        OffPolicyTrainerParams(
            training_collector=collector, test_collector=judge, max_epochs=4, epoch_num_steps=2000,
            collection_step_num_env_steps=16, update_step_num_gradient_steps_per_sample=0.25, batch_size=64,
            test_step_num_episodes=16, show_progress=False, verbose=False,
        )
    )  # fmt: skip
    assert before.mean < 60 < 90 < result.best_reward
    training.close()
    testing.close()


def test_with_wait_num_every_env_steps_in_its_turn(url: str) -> None:
    envs = remote_vector_env(url, SCRIPTED, 3, wait_num=2)
    envs.reset(seed=1)
    first = envs.step(np.zeros(3, np.int64), id=[0, 1, 2])[-1]
    assert [info["env_id"] for info in first] == [0, 1]
    second = envs.step(np.zeros(2, np.int64), id=[0, 1])[-1]
    assert [(info["env_id"], info["steps"]) for info in second] == [(2, 1), (0, 2)]
    envs.close()


def test_a_fault_ends_the_collecting_and_a_reset_goes_on(url: str) -> None:
    envs = remote_vector_env(url, SCRIPTED, 3)
    envs.reset(options={"how": "raise", "at": 2})
    envs.step(np.zeros(3, np.int64))
    with pytest.raises(EnvFault, match="the script says: fail"):
        envs.step(np.zeros(3, np.int64))
    envs.reset()
    assert envs.step(np.zeros(3, np.int64))[0][:, 0].tolist() == [1, 1, 1]
    envs.close()


def test_attributes_are_reached_as_far_as_the_operator_allows(url: str) -> None:
    envs = remote_vector_env(url, SCRIPTED, 2, render_mode="rgb_array")
    envs.reset()
    envs.set_env_attr("setting", 4, id=1)
    assert envs.get_env_attr("setting") == [0, 4]
    assert [frame.shape for frame in envs.render()] == [(4, 6, 3)] * 2
    with pytest.raises(AttributeError, match="--allow-attr"):
        envs.get_env_attr("options")
    envs.close()


def test_an_env_that_resets_itself_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="disabled"):
        RemoteEnvWorker(lambda: VirtualVectorEnv(url, SCRIPTED, 1))


def test_a_lost_session_that_is_to_be_lived_with_is_a_truncation_and_a_warning() -> None:
    with serving(SCRIPTED, count=2, workers=1) as server:
        envs = remote_vector_env(server.url, SCRIPTED, 2, on_lost="truncate")
        envs.reset()
        before = envs.step(np.zeros(2, np.int64))[0]
        lose_sessions(server)
        with pytest.warns(RuntimeWarning, match="was lost with its session"):
            observations, rewards, terminated, truncated, _ = envs.step(np.zeros(2, np.int64))
        assert truncated.all() and not terminated.any() and not rewards.any()
        assert_same(observations, before)
        envs.close()


def test_how_to_get_in_reaches_each_virtual_env(url: str) -> None:
    refused = {"ca_file": "/ca.pem", "fingerprint": "ab" * 32}
    for name, value in refused.items():  # they have come where plain HTTP is known to need none
        with pytest.raises(ConfigError, match="ca_file and fingerprint are for https"):
            remote_vector_env(url, SCRIPTED, 2, **{name: value})
    ways_in = {"token": "t"}
    envs = remote_vector_env(url, SCRIPTED, 2, owner="a-key-of-my-own", **ways_in)
    for number, worker in enumerate(envs.workers):
        config = worker.env._remotes[0].config
        assert {name: getattr(config, name) for name in ways_in} == ways_in
        assert config.owner == f"a-key-of-my-own-{number}"
    envs.close()
