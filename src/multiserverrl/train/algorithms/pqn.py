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

from typing import TYPE_CHECKING, Protocol

import numpy as np

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms.pqn_numpy import NumpyArithmetic, fresh, network_fields, q_values
from multiserverrl.train.algorithms.protocol import Acted, Array, Batch, Explore, Fields, Storage, Updated, Weights
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task

if TYPE_CHECKING:
    import torch

__all__ = ["PQN", "Arithmetic", "PQNLearner", "TorchArithmetic", "cuts_of", "lambda_returns"]


class PQN:
    """The half that acts: epsilon-greedy on Q, in NumPy."""

    storage: Storage = "rollouts"

    def __init__(self, config: TrainConfig, task: Task) -> None:
        _refuse_others(task)
        self.config, self.task = config, task
        self.extras_fields: Fields = {}
        self.transition_fields: Fields = {}
        self.weights_fields = network_fields(task.obs_size, config.hidden_sizes, task.num_actions)

    def prepare(self, weights: Weights) -> Weights:
        return {name: weights[name] for name in self.weights_fields}

    def act(self, weights: Weights, obs: Array, extras: Batch, explore: Explore, rng: np.random.Generator) -> Acted:
        actions = q_values(weights, obs).argmax(axis=1)  # (N,)
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

    def init(self) -> PQNLearner:
        """The half that learns, in the arithmetic that `--backend` names."""
        kind = TorchArithmetic if self.config.backend == "torch" else NumpyArithmetic
        return PQNLearner(self.config, kind(self.config, self.task))


def _refuse_others(task: Task) -> None:
    if not task.is_discrete:
        raise ConfigError("pqn learns to choose among numbered actions: this env's are continuous, not Discrete")
    if task.obs_parts or task.obs_dtype != "float32":
        raise ConfigError(
            f"cannot train on observations {task.obs_dtype}{task.obs_shape}: only Box spaces of floating-point numbers"
        )


class Arithmetic(Protocol):
    """A network, the gradient of equation 2, and the optimiser: NumPy's or torch's."""

    def values(self, obs: Array) -> Array:
        """(B, *obs_shape) → (B, A)."""

    def descend(self, obs: Array, action: Array, wanted: Array, learning_rate: float) -> float:
        """One step of the optimiser towards `wanted` (B,); the loss before it."""

    def weights(self) -> Weights:
        """Copies of what is published."""

    def state(self) -> dict[str, Array]:
        """Copies of weights, moments and steps, under the same names in either arithmetic."""

    def load_state(self, state: dict[str, Array]) -> None:
        """Become what `state` says; it fits."""


class PQNLearner:
    """The half that learns."""

    def __init__(self, config: TrainConfig, arithmetic: Arithmetic) -> None:
        self.config, self.arithmetic = config, arithmetic
        self.updates = 0

    def update(self, batch: Batch, env_steps: int) -> Updated:
        """Learn from a rollout, (T, N, ...) each; rows that are not valid are left out."""
        wanted = self.wanted(batch)  # (T, N)
        valid = batch["valid"]
        obs, action, wanted = batch["obs"][valid], batch["action"][valid], wanted[valid]  # (B, ...)
        rng = np.random.default_rng([self.config.seed, 1, self.updates])  # a resume needs no state of it
        parts, learning_rate = min(self.config.minibatches, len(wanted)), self.learning_rate(env_steps)
        losses = [
            self.arithmetic.descend(obs[rows], action[rows], wanted[rows], learning_rate)
            for _ in range(self.config.epochs)
            for rows in np.array_split(rng.permutation(len(wanted)), parts)
        ]
        self.updates += len(losses)
        return Updated(float(np.mean(losses)), updates=len(losses))

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

    def learning_rate(self, env_steps: int) -> float:
        """Linear from the start to `learning_rate_end` of it."""
        left = 1.0 - env_steps / self.config.learning_rate_steps
        return self.config.learning_rate * max(self.config.learning_rate_end, left)

    def weights(self) -> Weights:
        return self.arithmetic.weights()

    def state(self) -> dict[str, Array]:
        return {"updates": np.array([self.updates]), **self.arithmetic.state()}

    def load_state(self, state: dict[str, Array]) -> None:
        for name, array in self.arithmetic.weights().items():
            kept = state.get(f"online.{name}")
            if kept is None or kept.shape != array.shape:
                found = "missing" if kept is None else f"{kept.shape}"
                raise ValueError(f"weights {name!r} are {found}, this run's network has {array.shape}")
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


class TorchArithmetic:
    """See `Arithmetic`."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        import torch

        torch.set_num_threads(config.torch_threads)
        torch.set_flush_denormal(True)  # see pqn_numpy
        self._max_norm, self._hidden = config.max_grad_norm, len(config.hidden_sizes)
        begin = fresh(np.random.default_rng([config.seed, 0]), task.obs_size, config.hidden_sizes, task.num_actions)
        self._online = {name: torch.from_numpy(array).requires_grad_() for name, array in begin.items()}
        self._optimiser = torch.optim.RAdam(list(self._online.values()), lr=config.learning_rate, foreach=True)
        for tensor in self._online.values():  # what RAdam would begin with at its first step
            zeros = torch.zeros_like(tensor, requires_grad=False)
            self._optimiser.state[tensor] = {
                "step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()
            }  # fmt: skip

    def values(self, obs: Array) -> Array:
        import torch

        with torch.no_grad():
            return self._forward(torch.from_numpy(obs)).numpy()

    def descend(self, obs: Array, action: Array, wanted: Array, learning_rate: float) -> float:
        import torch
        from torch.nn.functional import mse_loss

        value = self._forward(torch.from_numpy(obs)).gather(1, torch.from_numpy(action)[:, None]).squeeze(1)  # (B,)
        loss = mse_loss(value, torch.from_numpy(wanted))
        self._optimiser.param_groups[0]["lr"] = learning_rate
        self._optimiser.zero_grad()
        torch.autograd.backward(loss)
        if self._max_norm:
            torch.nn.utils.clip_grad_norm_(self._online.values(), self._max_norm)
        self._optimiser.step()
        return loss.item()

    def _forward(self, obs: torch.Tensor) -> torch.Tensor:
        """`q_values` in torch."""
        from torch.nn.functional import layer_norm, linear

        values = obs.flatten(1)
        for layer in range(self._hidden):
            weight, bias, scale, shift = (
                self._online[f"encoder.layer{layer}.{name}"] for name in ("weight", "bias", "scale", "shift")
            )
            values = layer_norm(linear(values, weight, bias), scale.shape, scale, shift).relu_()
        return linear(values, self._online["head.weight"], self._online["head.bias"])

    def weights(self) -> Weights:
        return {name: tensor.detach().numpy().copy() for name, tensor in self._online.items()}

    def state(self) -> dict[str, Array]:
        steps = next(iter(self._optimiser.state.values()))["step"]
        state: dict[str, Array] = {"steps": np.array([int(steps)])}
        for name, tensor in self._online.items():
            moments = self._optimiser.state[tensor]
            state[f"online.{name}"] = tensor.detach().numpy().copy()
            state[f"radam.first.{name}"] = moments["exp_avg"].numpy().copy()
            state[f"radam.second.{name}"] = moments["exp_avg_sq"].numpy().copy()
        return state

    def load_state(self, state: dict[str, Array]) -> None:
        import torch

        with torch.no_grad():
            for name, tensor in self._online.items():
                moments = self._optimiser.state[tensor]
                tensor.copy_(torch.from_numpy(state[f"online.{name}"]))
                moments["exp_avg"].copy_(torch.from_numpy(state[f"radam.first.{name}"]))
                moments["exp_avg_sq"].copy_(torch.from_numpy(state[f"radam.second.{name}"]))
                moments["step"].fill_(float(state["steps"][0]))
