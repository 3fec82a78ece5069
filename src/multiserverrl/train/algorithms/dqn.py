"""Double DQN on n-step returns, on one page.

van Hasselt, Guez and Silver, "Deep Reinforcement Learning with Double Q-learning" (AAAI 2016);
n-step targets as in Hessel et al., "Rainbow" (AAAI 2018), section "Multi-step learning".
torch is imported where it is used: processes that only act load this page without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms.dqn_numpy import NumpyDoubleDQNLearner
from multiserverrl.train.algorithms.protocol import Acted, Array, Batch, Explore, Fields, Storage, Updated, Weights
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks import mlp, mlp_fields, new_mlp
from multiserverrl.train.task import Task

if TYPE_CHECKING:
    import torch

__all__ = ["DoubleDQN", "DoubleDQNLearner"]


class DoubleDQN:
    """The half that acts: epsilon-greedy on Q, in NumPy."""

    storage: Storage = "n_steps"

    def __init__(self, config: TrainConfig, task: Task) -> None:
        _refuse_others(task)
        self.config, self.task = config, task
        self.extras_fields: Fields = {}
        self.weights_fields = mlp_fields(task.obs_size, config.hidden_sizes, task.num_actions)
        self.transition_fields: Fields = {
            "obs": (task.obs_dtype, task.obs_shape),
            "action": ("int64", ()),
            "reward": ("float32", ()),  # discounted sum of n
            "next_obs": (task.obs_dtype, task.obs_shape),  # n steps later, or where the episode ended
            "discount": ("float32", ()),  # of the value of next_obs: gamma**n, 0 after termination
            "weights_version": ("int64", ()),
        }

    def prepare(self, weights: Weights) -> Weights:
        return weights

    def act(self, weights: Weights, obs: Array, extras: Batch, explore: Explore, rng: np.random.Generator) -> Acted:
        actions = mlp(weights, obs.reshape(len(obs), -1)).argmax(axis=1)  # (N,)
        if np.any(explore):
            is_random = rng.random(len(obs)) < explore
            actions = np.where(is_random, self.act_at_random(len(obs), rng)[0], actions)
        return actions, {}

    def act_at_random(self, num_envs: int, rng: np.random.Generator) -> Acted:
        return rng.integers(0, self.task.num_actions, num_envs), {}

    def exploration(self, env_steps: int) -> float:
        """Epsilon: linear from start to end."""
        start, end = self.config.epsilon_start, self.config.epsilon_end
        return start + (end - start) * min(1.0, env_steps / self.config.epsilon_steps)

    def init(self) -> DoubleDQNLearner | NumpyDoubleDQNLearner:
        """The half that learns, in the arithmetic that `--backend` names."""
        kind = DoubleDQNLearner if self.config.backend == "torch" else NumpyDoubleDQNLearner
        return kind(self.config, self.task)


def _refuse_others(task: Task) -> None:
    if not task.is_discrete:
        raise ConfigError("dqn learns to choose among numbered actions: this env's are continuous, not Discrete")
    if task.obs_parts or task.obs_dtype != "float32":
        raise ConfigError(
            f"cannot train on observations {task.obs_dtype}{task.obs_shape}: only Box spaces of floating-point numbers"
        )


class DoubleDQNLearner:
    """The half that learns, in torch."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        import torch

        torch.set_num_threads(config.torch_threads)
        # Dead ReLUs leave zeros in the gradient, Adam's moments then decay into denormals: 1.7 times slower.
        torch.set_flush_denormal(True)
        self.config = config
        rng = np.random.default_rng([config.seed, 0])
        fresh = new_mlp(rng, task.obs_size, config.hidden_sizes, task.num_actions)
        self.online = {name: torch.from_numpy(array).requires_grad_() for name, array in fresh.items()}
        self.target = {name: torch.from_numpy(array.copy()) for name, array in fresh.items()}
        self.optimiser = torch.optim.Adam(list(self.online.values()), lr=config.learning_rate, fused=True)
        for tensor in self.online.values():  # what Adam would begin with at its first step
            zeros = torch.zeros_like(tensor, requires_grad=False)
            self.optimiser.state[tensor] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        self.updates = 0

    def update(self, batch: Batch, env_steps: int) -> Updated:
        import torch
        from torch.nn.functional import smooth_l1_loss

        action, reward, discount = (torch.from_numpy(batch[name]) for name in ("action", "reward", "discount"))
        obs, next_obs = (torch.from_numpy(batch[name]).flatten(1) for name in ("obs", "next_obs"))  # (B, obs_size)
        with torch.no_grad():
            # Equation 4 with the target network as its second: the online network chooses the
            # action, the target network says what it is worth.
            best = forward(self.online, next_obs).argmax(1, keepdim=True)  # (B, 1)
            next_value = forward(self.target, next_obs).gather(1, best).squeeze(1)  # (B,)
            wanted = reward + discount * next_value  # (B,) a truncated episode's discount is not 0
        value = forward(self.online, obs).gather(1, action[:, None]).squeeze(1)  # (B,)
        assert value.shape == wanted.shape
        loss = smooth_l1_loss(value, wanted)
        self.optimiser.param_groups[0]["lr"] = self.learning_rate(env_steps)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        self.optimiser.step()
        self.updates += 1
        if self.updates % self.config.target_update == 0:
            self._renew_target()
        return Updated(loss.item(), (wanted - value.detach()).numpy())

    def learning_rate(self, env_steps: int) -> float:
        """Linear from the start to `learning_rate_end` of it."""
        left = 1.0 - env_steps / self.config.learning_rate_steps
        return self.config.learning_rate * max(self.config.learning_rate_end, left)

    def weights(self) -> Weights:
        return {name: tensor.detach().numpy().copy() for name, tensor in self.online.items()}

    def state(self) -> dict[str, Array]:
        state: dict[str, Array] = {"updates": np.array([self.updates])}
        for name, tensor in self.online.items():
            state[f"online.{name}"] = tensor.detach().numpy().copy()
            state[f"target.{name}"] = self.target[name].numpy().copy()
            for key, value in self._adam_state(tensor).items():
                state[f"adam.{key}.{name}"] = value.numpy().copy()
        return state

    def load_state(self, state: dict[str, Array]) -> None:
        import torch

        for name, tensor in self.online.items():
            kept = state.get(f"online.{name}")
            if kept is None or kept.shape != tuple(tensor.shape):
                found = "missing" if kept is None else f"{kept.shape}"
                raise ValueError(f"weights {name!r} are {found}, this run's network has {tuple(tensor.shape)}")
        with torch.no_grad():
            for name, tensor in self.online.items():
                tensor.copy_(torch.from_numpy(state[f"online.{name}"]))
                self.target[name].copy_(torch.from_numpy(state[f"target.{name}"]))
                for key, value in self._adam_state(tensor).items():
                    value.copy_(torch.from_numpy(state[f"adam.{key}.{name}"]))
        self.updates = int(state["updates"][0])

    def _renew_target(self) -> None:
        for name, tensor in self.online.items():
            self.target[name].copy_(tensor.detach())

    def _adam_state(self, tensor: torch.Tensor) -> dict[str, Any]:
        return {key: self.optimiser.state[tensor][key] for key in ("step", "exp_avg", "exp_avg_sq")}


def forward(weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    """`networks.mlp` in torch: (B, inputs) → (B, outputs)."""
    from torch.nn.functional import linear

    last = len(weights) // 2 - 1
    for layer in range(last + 1):
        inputs = linear(inputs, weights[f"layer{layer}.weight"], weights[f"layer{layer}.bias"])
        if layer < last:
            inputs = inputs.relu_()
    return inputs
