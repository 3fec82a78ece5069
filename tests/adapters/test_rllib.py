"""RLlib's new API stack takes Virtual-v0 by its vector entry point: no adapter, the URL in `env_config`."""

from collections.abc import Iterator
from typing import Any

import gymnasium
import pytest
import ray
from ray.rllib.algorithms.ppo import PPOConfig

from tests.adapters.conftest import SCRIPTED

pytestmark = pytest.mark.trainers


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # a cluster of this machine alone, for these tests
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        yield
        ray.shutdown()


def config_for(url: str, env_id: str, **env_config: Any) -> PPOConfig:
    return (
        PPOConfig()
        .environment("multiserverrl:Virtual-v0", env_config={"url": url, "env_id": env_id, **env_config})
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=8,
            gym_env_vectorize_mode=gymnasium.VectorizeMode.VECTOR_ENTRY_POINT,
        )
        .training(train_batch_size_per_learner=1024, minibatch_size=256, num_epochs=10, lr=1e-3)
        .rl_module(model_config={"fcnet_hiddens": [64, 64], "vf_share_layers": False})
        .debugging(seed=1)
    )


def test_ppo_learns_on_it(url: str) -> None:
    algorithm = config_for(url, "CartPole-v1").build_algo()
    returns = [algorithm.train()["env_runners"]["episode_return_mean"] for _ in range(9)]
    algorithm.stop()
    assert returns[0] < 40 and max(returns) > 80, returns


def test_its_env_runner_has_all_envs_in_one_session(url: str) -> None:
    algorithm = config_for(url, SCRIPTED).build_algo()
    envs = algorithm.env_runner.env.unwrapped
    assert type(envs).__name__ == "VirtualVectorEnv" and envs.num_envs == 8
    episodes = algorithm.env_runner.sample(num_episodes=16, random_actions=True)
    assert {len(episode) for episode in episodes} == {7}
    assert all(episode.is_terminated for episode in episodes)
    algorithm.stop()
