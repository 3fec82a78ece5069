"""PQN on one page: Q-learning on fresh rollouts, without a replay buffer and without a target network.

Gallici et al., "Simplifying Deep Temporal Difference Learning" (ICLR 2025): LayerNorm keeps it stable, many envs
make its batches. Of each rollout of T steps in N envs it makes λ-returns (Q(λ), algorithm 1 there) and fits Q to
them in some epochs of minibatches:

    G_t = r_t + γ · V(s_{t+1})                              where the trajectory is cut after step t
    G_t = r_t + γ · [ λ · G_{t+1} + (1 − λ) · V(s_{t+1}) ]  elsewhere,  V(s) = max_a Q(s, a)               (1)
    G_t = r_t                                               where the episode terminated in step t
    loss = mean over the minibatch of ( Q(s_t, a_t) − G_t )²                                               (2)

All V of a rollout are the network's own, as it is when the rollout is complete.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, SupportsFloat

import numpy as np

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms.dqn_numpy import require_same
from multiserverrl.train.algorithms.pqn_numpy import NumpyArithmetic, network_fields, q_values
from multiserverrl.train.algorithms.protocol import Acted, Array, Batch, Explore, Fields, Storage, Updated, Weights
from multiserverrl.train.algorithms.schedules import epsilon_at, learning_rate_at
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks import fresh
from multiserverrl.train.networks.choice import encoder_for, is_plain
from multiserverrl.train.networks.device import open_device
from multiserverrl.train.networks.tensors import arrays_of, on_device, tensors_of, weights_on
from multiserverrl.train.task import Task

if TYPE_CHECKING:
    import torch

__all__ = ["PQN", "Arithmetic", "PQNLearner", "TorchArithmetic", "cuts_of", "lambda_returns"]


class PQN:
    """The half that acts: epsilon-greedy on Q, in NumPy for plain networks."""

    storage: Storage = "rollouts"

    def __init__(self, config: TrainConfig, task: Task) -> None:
        if not task.is_discrete:
            raise ConfigError("pqn learns to choose among numbered actions: this env's are continuous, not Discrete")
        self.config, self.task, self.is_plain = config, task, is_plain(config, task)
        if config.backend == "numpy" and not self.is_plain:
            raise ConfigError("--backend is 'numpy': it has no image or Dict networks; use --backend torch or auto")
        self.extras_fields: Fields = {}
        self.transition_fields: Fields = {}
        self.weights_fields = network_fields(config, task)
        self._torch: TorchNetwork | None = None  # of acting

    def fresh(self, rng: np.random.Generator) -> Weights:
        """Weights to begin with."""
        return fresh(rng, self.weights_fields)

    def prepare(self, weights: Weights) -> Any:
        weights = {name: weights[name] for name in self.weights_fields}
        if self.is_plain:
            return weights
        self._torch = self._torch or TorchNetwork(self.config, self.task)
        return weights_on(weights, self._torch.device)

    def act(self, weights: Any, obs: Array, extras: Batch, explore: Explore, rng: np.random.Generator) -> Acted:
        values = self._torch.values(weights, obs) if self._torch else q_values(weights, obs)
        actions = values.argmax(axis=1)  # (N,)
        if np.any(explore):
            is_random = rng.random(len(obs)) < explore
            actions = np.where(is_random, self.act_at_random(len(obs), rng)[0], actions)
        return actions, {}

    def act_at_random(self, num_envs: int, rng: np.random.Generator) -> Acted:
        return rng.integers(0, self.task.num_actions, num_envs), {}

    def exploration(self, env_steps: int) -> float:
        return epsilon_at(self.config, env_steps)

    def init(self) -> PQNLearner:
        """The half that learns, in the arithmetic that `--backend` names."""
        config = self.config
        is_numpy = config.backend == "numpy" or (config.backend == "auto" and self.is_plain and config.device != "cuda")
        kind = NumpyArithmetic if is_numpy else TorchArithmetic
        return PQNLearner(config, self.weights_fields, kind(config, self.task))


class Arithmetic(Protocol):
    """A network, the gradient of equation 2, and the optimiser: NumPy's or torch's."""

    def values(self, obs: Array) -> Array:
        """(B, *obs_shape) → (B, A)."""

    def descend(self, obs: Array, action: Array, wanted: Array, learning_rate: float) -> Any:
        """One step of the optimiser towards `wanted` (B,); the loss before it, a number or a tensor."""

    def weights(self) -> Weights:
        """Copies of what is published."""

    def state(self) -> dict[str, Array]:
        """Copies of weights, moments and steps, under the same names in either arithmetic."""

    def load_state(self, state: dict[str, Array]) -> None:
        """Become what `state` says; it fits."""


class PQNLearner:
    """The half that learns."""

    def __init__(self, config: TrainConfig, fields: Fields, arithmetic: Arithmetic) -> None:
        self.config, self.fields, self.arithmetic = config, fields, arithmetic
        self.updates = 0

    def update(self, batch: Batch, env_steps: int) -> Updated:
        """Learn from a rollout, (T, N, ...) each; rows that are not valid are left out."""
        wanted = self.wanted(batch)  # (T, N)
        valid = batch["valid"]
        obs, action, wanted = batch["obs"][valid], batch["action"][valid], wanted[valid]  # (B, ...)
        rng = np.random.default_rng([self.config.seed, 1, self.updates])  # a resume needs no state of it
        parts, learning_rate = min(self.config.minibatches, len(wanted)), learning_rate_at(self.config, env_steps)
        losses = [
            self.arithmetic.descend(obs[rows], action[rows], wanted[rows], learning_rate)
            for _ in range(self.config.epochs)
            for rows in np.array_split(rng.permutation(len(wanted)), parts)
        ]
        self.updates += len(losses)
        loss: SupportsFloat = sum(losses) / len(losses)
        return Updated(loss, updates=len(losses))

    def wanted(self, batch: Batch) -> Array:
        """(T, N) λ-returns; what stands in rows that are not valid means nothing."""
        obs, next_obs, valid = batch["obs"], batch["next_obs"], batch["valid"]
        value = np.zeros(valid.shape, np.float32)
        value[valid] = self.arithmetic.values(obs[valid]).max(axis=1)
        next_value = np.zeros_like(value)
        next_value[:-1] = value[1:]  # the next row's observation, but where the trajectory is cut
        cut = cuts_of(batch["truncated"], valid)
        asked = cut & valid & ~batch["terminated"]
        next_value[asked] = self.arithmetic.values(next_obs[asked]).max(axis=1)
        config = self.config
        return lambda_returns(batch["reward"], batch["terminated"], cut, next_value, config.gamma, config.td_lambda)

    def weights(self) -> Weights:
        return self.arithmetic.weights()

    def state(self) -> dict[str, Array]:
        return {"updates": np.array([self.updates]), **self.arithmetic.state()}

    def load_state(self, state: dict[str, Array]) -> None:
        require_same(self.fields, state)
        self.arithmetic.load_state(state)
        self.updates = int(state["updates"][0])


def cuts_of(truncated: Array, valid: Array) -> Array:
    """(T, N) True where the row's successor in the rollout does not go on with its trajectory, or there is none.

    Such a row bootstraps from its own next observation. (A terminated row does not bootstrap at all.)
    """
    cut = truncated.copy()
    cut[:-1] |= ~valid[1:]
    cut[-1] = True
    return cut


def lambda_returns(
    reward: Array, terminated: Array, cut: Array, next_value: Array, gamma: float, td_lambda: float
) -> Array:
    """Equation 1, all (T, N); `next_value` is V of the state that each row led to."""
    returns = np.empty_like(next_value)
    after = next_value[-1]  # (N,) the next row's return; where it is cut off nothing is made of it, not even 0 · NaN
    for t in reversed(range(len(reward))):
        led_to = np.where(cut[t], next_value[t], td_lambda * after + (1 - td_lambda) * next_value[t])
        after = returns[t] = np.where(terminated[t], reward[t], reward[t] + gamma * led_to)
    return returns


class TorchNetwork:
    """`q_values` in torch, for every kind of observation."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self.device = open_device(config.torch_device, config.torch_threads)
        self._encoder, self._task = encoder_for(config, task, layer_norm=True), task

    def forward(self, weights: Mapping[str, torch.Tensor], obs: Array) -> torch.Tensor:
        """(B, *obs_shape) → (B, A), on the device."""
        from torch.nn.functional import linear

        features = self._encoder.forward(weights, tensors_of(obs, self._task, self.device))
        return linear(features, weights["head.weight"], weights["head.bias"])

    def values(self, weights: Mapping[str, torch.Tensor], obs: Array) -> Array:
        """The same without a gradient, as an array."""
        import torch

        if not len(obs):  # convolutions want some
            return np.zeros((0, self._task.num_actions), np.float32)
        with torch.inference_mode():
            values: Array = self.forward(weights, obs).cpu().numpy()
        return values


class TorchArithmetic:
    """See `Arithmetic`."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        import torch

        self._network, self._max_norm = TorchNetwork(config, task), config.max_grad_norm
        begin = weights_on(fresh(np.random.default_rng([config.seed, 0]), network_fields(config, task)), self._device)
        self._online = {name: tensor.requires_grad_() for name, tensor in begin.items()}
        self._optimiser = torch.optim.RAdam(list(self._online.values()), foreach=True)
        for tensor in self._online.values():  # what RAdam would begin with at its first step
            zeros = torch.zeros_like(tensor, requires_grad=False)
            state = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
            self._optimiser.state[tensor] = state

    @property
    def _device(self) -> torch.device:
        return self._network.device

    def values(self, obs: Array) -> Array:
        return self._network.values(self._online, obs)

    def descend(self, obs: Array, action: Array, wanted: Array, learning_rate: float) -> torch.Tensor:
        import torch
        from torch.nn.functional import mse_loss

        actions = on_device(action, self._device)[:, None]
        value = self._network.forward(self._online, obs).gather(1, actions).squeeze(1)  # (B,)
        loss = mse_loss(value, on_device(wanted, self._device))
        self._optimiser.param_groups[0]["lr"] = learning_rate
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        if self._max_norm:
            torch.nn.utils.clip_grad_norm_(self._online.values(), self._max_norm)
        self._optimiser.step()
        return loss.detach()

    def weights(self) -> Weights:
        return arrays_of(self._online)

    def state(self) -> dict[str, Array]:
        steps = next(iter(self._optimiser.state.values()))["step"]
        return {"steps": np.array([int(steps)]), **arrays_of(self._living())}

    def load_state(self, state: dict[str, Array]) -> None:
        import torch

        with torch.no_grad():
            for name, tensor in self._living().items():
                tensor.copy_(torch.from_numpy(state[name]))
            for moments in self._optimiser.state.values():
                moments["step"].fill_(float(state["steps"][0]))

    def _living(self) -> dict[str, torch.Tensor]:
        """The tensors themselves, by their names in the state."""
        living = {}
        for name, tensor in self._online.items():
            moments = self._optimiser.state[tensor]
            living[f"online.{name}"] = tensor
            living[f"radam.first.{name}"], living[f"radam.second.{name}"] = moments["exp_avg"], moments["exp_avg_sq"]
        return living
