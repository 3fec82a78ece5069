"""TorchRL takes a VirtualVectorEnv and a VirtualEnv into its GymWrapper as they are, and learns on them."""

from typing import Any

import gymnasium
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs import GymWrapper
from torchrl.envs.utils import check_env_specs
from torchrl.modules import MLP, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from multiserverrl import VirtualEnv, VirtualVectorEnv

pytestmark = pytest.mark.trainers

MODES = {"disabled": AutoresetMode.DISABLED, "same_step": AutoresetMode.SAME_STEP}


def balanced(tensordict: Any) -> Any:
    """A policy that keeps the pole up for some time."""
    side = (tensordict["observation"][..., 2] > 0).long()
    return tensordict.set("action", nn.functional.one_hot(side, 2))


def rollout(envs: Any) -> Any:
    env = GymWrapper(envs)
    env.set_seed(3)
    taken = env.rollout(150, balanced, break_when_any_done=False)
    env.close()
    return taken


@pytest.mark.parametrize("mode", MODES)
def test_a_rollout_is_as_that_of_local_envs(url: str, mode: str) -> None:
    got = rollout(VirtualVectorEnv(url, "CartPole-v1", 3, autoreset_mode=mode))
    wanted = rollout(SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 3, autoreset_mode=MODES[mode]))
    assert got["next", "done"].sum() > 3
    for key in ("observation", "action", ("next", "observation"), ("next", "reward"), ("next", "terminated")):
        torch.testing.assert_close(got[key], wanted[key], rtol=0, atol=0, equal_nan=True)


def test_the_specs_hold_for_one_env_and_for_several(url: str) -> None:
    for env in (VirtualEnv(url, "CartPole-v1"), VirtualVectorEnv(url, "CartPole-v1", 2, autoreset_mode="disabled")):
        wrapped = GymWrapper(env)
        check_env_specs(wrapped)
        wrapped.close()


def mean_length(taken: Any) -> float:
    """Steps an episode among these."""
    return float(taken.numel() / max(1, int(taken["next", "done"].sum())))


def test_ppo_learns_on_it(url: str) -> None:
    torch.manual_seed(1)
    env = GymWrapper(
        VirtualVectorEnv(url, "CartPole-v1", 8, autoreset_mode="disabled"), categorical_action_encoding=True
    )
    logits = MLP(in_features=4, out_features=2, num_cells=[64, 64], activation_class=nn.Tanh)
    value = MLP(in_features=4, out_features=1, num_cells=[64, 64], activation_class=nn.Tanh)
    actor = ProbabilisticActor(
        TensorDictModule(logits, in_keys=["observation"], out_keys=["logits"]),
        in_keys=["logits"], distribution_class=torch.distributions.Categorical,
        return_log_prob=True, spec=env.action_spec,
    )  # fmt: skip
    critic = ValueOperator(value, in_keys=["observation"])
    advantage = GAE(gamma=0.98, lmbda=0.8, value_network=critic, average_gae=True)
    loss_of = ClipPPOLoss(actor, critic, entropy_coeff=0.0)
    optimiser = torch.optim.Adam(loss_of.parameters(), lr=1e-3)
    collector = Collector(env, actor, frames_per_batch=1024, total_frames=10_240)
    lengths = []
    for taken in collector:
        lengths.append(mean_length(taken))
        for _ in range(10):
            advantage(taken)
            for batch in taken.reshape(-1)[torch.randperm(1024)].split(256):
                losses = loss_of(batch)
                optimiser.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                optimiser.step()
    collector.shutdown()
    assert lengths[0] < 40 and max(lengths) > 80, lengths
