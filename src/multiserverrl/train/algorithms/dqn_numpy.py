"""The learner of `dqn` in NumPy: forward, backward and Adam on one page, for plain networks on the CPU.

The same updates as the torch learner (equal within 1e-5 over 100 of them), about 1.5 times as many a second in a
whole run on CartPole (bench/train.py), and no process imports torch. Equations as in `dqn`; Adam: Kingma and Ba
(ICLR 2015), algorithm 1.
"""

from __future__ import annotations

import math

import numpy as np

from multiserverrl.train.algorithms.protocol import Array, Batch, Updated, Weights
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks import mlp, mlp_fields, new_mlp
from multiserverrl.train.task import Task

__all__ = ["NumpyDoubleDQNLearner"]

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
# Dead ReLUs leave zeros in the gradient, Adam's moments then decay into denormals: 1.7 times slower. These keep
# them above, far below anything that moves a weight.
_LEAST_GRADIENT, _LEAST_SQUARE = np.float32(1e-20), np.float32(1e-30)


class NumpyDoubleDQNLearner:
    """The half that learns. Parameters, gradients and moments are flat arrays; the layers are views of them."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self.config = config
        self._fields = mlp_fields(task.obs_size, config.hidden_sizes, task.num_actions)
        rng = np.random.default_rng([config.seed, 0])
        fresh = new_mlp(rng, task.obs_size, config.hidden_sizes, task.num_actions)
        self._parameters = np.concatenate([array.ravel() for array in fresh.values()])
        self._wanted = self._parameters.copy()  # the target network
        self._gradient, self._first, self._second, self._scratch = (np.zeros_like(self._parameters) for _ in range(4))
        self.online, self.target = self._views(self._parameters), self._views(self._wanted)
        self._slopes = self._views(self._gradient)
        self._layers = len(fresh) // 2
        self.steps = 0  # of Adam
        self.updates = 0

    def update(self, batch: Batch, env_steps: int) -> Updated:
        obs, next_obs = (batch[name].reshape(len(batch[name]), -1) for name in ("obs", "next_obs"))  # (B, obs_size)
        B = len(obs)
        rows = np.arange(B)
        # Equation 4 with the target network as its second: the online network chooses the action,
        # the target network says what it is worth.
        best = mlp(self.online, next_obs).argmax(axis=1)  # (B,)
        wanted = batch["reward"] + batch["discount"] * mlp(self.target, next_obs)[rows, best]  # (B,)
        inputs, outputs = self._forward(obs)
        error = outputs[rows, batch["action"]] - wanted  # (B,)
        size = np.abs(error)
        loss = float(np.where(size < 1.0, 0.5 * error * error, size - 0.5).mean())
        slope = np.zeros_like(outputs)  # (B, A) of Huber's loss in the outputs
        slope[rows, batch["action"]] = np.clip(error, -1.0, 1.0) / np.float32(B)
        self._backward(inputs, slope)
        self._adam(self.learning_rate(env_steps))
        self.updates += 1
        if self.updates % self.config.target_update == 0:
            self._wanted[:] = self._parameters
        return Updated(loss, -error)

    def _forward(self, obs: Array) -> tuple[list[Array], Array]:
        """What went into each layer, and the outputs (B, A)."""
        inputs, values = [], obs
        for layer in range(self._layers):
            inputs.append(values)
            values = values @ self.online[f"layer{layer}.weight"].T
            values += self.online[f"layer{layer}.bias"]
            if layer < self._layers - 1:
                np.maximum(values, 0.0, out=values)
        return inputs, values

    def _backward(self, inputs: list[Array], slope: Array) -> None:
        """The gradient, from the slope of the loss in the outputs."""
        for layer in reversed(range(self._layers)):
            np.matmul(slope.T, inputs[layer], out=self._slopes[f"layer{layer}.weight"])
            slope.sum(axis=0, out=self._slopes[f"layer{layer}.bias"])
            if layer:
                slope = slope @ self.online[f"layer{layer}.weight"]
                slope *= inputs[layer] > 0.0

    def _adam(self, learning_rate: float) -> None:
        self.steps += 1
        gradient, first, second, scratch = self._gradient, self._first, self._second, self._scratch
        gradient += _LEAST_GRADIENT
        first *= np.float32(_BETA_1)
        np.multiply(gradient, np.float32(1.0 - _BETA_1), out=scratch)
        first += scratch
        second *= np.float32(_BETA_2)
        gradient *= gradient
        gradient *= np.float32(1.0 - _BETA_2)
        second += gradient
        second += _LEAST_SQUARE
        np.sqrt(second, out=scratch)
        scratch *= np.float32(1.0 / math.sqrt(1.0 - _BETA_2**self.steps))
        scratch += np.float32(_EPSILON)
        np.divide(first, scratch, out=scratch)
        scratch *= np.float32(learning_rate / (1.0 - _BETA_1**self.steps))
        self._parameters -= scratch

    def learning_rate(self, env_steps: int) -> float:
        """Linear from the start to `learning_rate_end` of it."""
        left = 1.0 - env_steps / self.config.learning_rate_steps
        return self.config.learning_rate * max(self.config.learning_rate_end, left)

    def weights(self) -> Weights:
        return {name: array.copy() for name, array in self.online.items()}

    def state(self) -> dict[str, Array]:
        """As the torch learner's: either goes on from the other's checkpoint."""
        state: dict[str, Array] = {"updates": np.array([self.updates])}
        first, second = self._views(self._first), self._views(self._second)
        for name in self._fields:
            state[f"online.{name}"], state[f"target.{name}"] = self.online[name].copy(), self.target[name].copy()
            state[f"adam.exp_avg.{name}"], state[f"adam.exp_avg_sq.{name}"] = first[name].copy(), second[name].copy()
            state[f"adam.step.{name}"] = np.array(self.steps, np.float32)
        return state

    def load_state(self, state: dict[str, Array]) -> None:
        for name, array in self.online.items():
            kept = state.get(f"online.{name}")
            if kept is None or kept.shape != array.shape:
                found = "missing" if kept is None else f"{kept.shape}"
                raise ValueError(f"weights {name!r} are {found}, this run's network has {array.shape}")
        first, second = self._views(self._first), self._views(self._second)
        for name in self._fields:
            self.online[name][...], self.target[name][...] = state[f"online.{name}"], state[f"target.{name}"]
            first[name][...], second[name][...] = state[f"adam.exp_avg.{name}"], state[f"adam.exp_avg_sq.{name}"]
            self.steps = int(state[f"adam.step.{name}"])
        self.updates = int(state["updates"][0])

    def _views(self, flat: Array) -> Weights:
        """One view a layer's array, in the order of the fields."""
        views, begin = {}, 0
        for name, (_, shape) in self._fields.items():
            end = begin + math.prod(shape)
            views[name] = flat[begin:end].reshape(shape)
            begin = end
        return views
