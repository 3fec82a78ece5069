"""Two algorithms of other kinds than ours, and tasks for them: what the protocol must carry without change.

RecurrentQ has a recurrent state and learns from sequences; QuadraticActor has continuous actions. Both in NumPy.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from multiserverrl.train.algorithms.protocol import Acted, Array, Batch, Fields, Storage, Updated, Weights
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.task import Task


class Cue(gymnasium.Env[Any, Any]):
    """The first observation says left or right, the others say nothing: reward 1 for the right action at step 5."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (3,))
    action_space = gymnasium.spaces.Discrete(2)
    length = 5

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._cue, self._t = int(self.np_random.integers(2)), 0
        return np.eye(3, dtype=np.float32)[self._cue], {}

    def step(self, action: Any) -> Any:
        self._t += 1
        ends = self._t == self.length
        return np.eye(3, dtype=np.float32)[2], float(ends and action == self._cue), ends, False, {}


class Reach(gymnasium.Env[Any, Any]):
    """One step: the action should be 0.8 x - 0.5 y of the (x, y) that is seen; the reward is minus the square."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._seen = self.np_random.uniform(-1.0, 1.0, 2).astype(np.float32)
        return self._seen, {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        wanted = float(self._seen @ np.array([0.8, -0.5]))
        return self._seen, -((float(action[0]) - wanted) ** 2), True, False, {}


class RecurrentQ:
    """Q-learning with h' = tanh(W x + U h + b), q = V h'. `--option forget=true` zeroes the state at each step."""

    storage: Storage = "sequences"

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self.config, self.task, self.size = config, task, 16
        shapes = {"W": (16, task.obs_size), "U": (16, 16), "b": (16,), "V": (task.num_actions, 16)}
        self.weights_fields: Fields = {name: ("float32", shape) for name, shape in shapes.items()}
        self.extras_fields: Fields = {"state": ("float32", (16,))}
        self.transition_fields: Fields = {"obs": (task.obs_dtype, task.obs_shape), "action": ("int64", ())}

    def prepare(self, weights: Weights) -> Weights:
        return weights

    def act(self, weights: Weights, obs: Array, extras: Batch, explore: Any, rng: np.random.Generator) -> Acted:
        state = np.tanh(obs @ weights["W"].T + extras["state"] @ weights["U"].T + weights["b"])
        actions = (state @ weights["V"].T).argmax(axis=1)
        if np.any(explore):
            actions = np.where(
                rng.random(len(obs)) < explore, rng.integers(0, self.task.num_actions, len(obs)), actions
            )
        return actions, {"state": state * (not self.config.options.get("forget", False))}

    def act_at_random(self, num_envs: int, rng: np.random.Generator) -> Acted:
        state = np.zeros((num_envs, self.size), np.float32)
        return rng.integers(0, self.task.num_actions, num_envs), {"state": state}

    def exploration(self, env_steps: int) -> float:
        return 0.3

    def init(self) -> RecurrentQLearner:
        return RecurrentQLearner(self)


class RecurrentQLearner:
    """Through time by hand, and Adam."""

    def __init__(self, algorithm: RecurrentQ) -> None:
        rng = np.random.default_rng(algorithm.config.seed)
        self.config, fields = algorithm.config, algorithm.weights_fields
        self.net = {name: rng.normal(0, 0.3, shape).astype(dtype) for name, (dtype, shape) in fields.items()}
        self.net["U"] = np.eye(algorithm.size, dtype=np.float32)
        self.first, self.second = ({name: np.zeros_like(array) for name, array in self.net.items()} for _ in range(2))
        self.updates = np.zeros(1, np.int64)

    def update(self, batch: Batch, env_steps: int) -> Updated:
        mask, action = batch["mask"], batch["action"]
        B, T = mask.shape
        rows, last = np.arange(B), mask.sum(axis=1)
        inputs = np.concatenate([batch["obs"], batch["obs"][:, -1:]], axis=1)  # (B, T + 1, obs)
        inputs[rows, last] = batch["next_obs"]
        states = [batch["state"] * (not self.config.options.get("forget", False))]
        for t in range(T + 1):
            states.append(np.tanh(inputs[:, t] @ self.net["W"].T + states[-1] @ self.net["U"].T + self.net["b"]))
        q = np.stack(states[1:], axis=1) @ self.net["V"].T  # (B, T + 1, actions)
        wanted = batch["reward"] + self.config.gamma * ~batch["terminated"] * q[:, 1:].max(axis=2)
        errors = (wanted - np.take_along_axis(q[:, :-1], action[..., None], axis=2)[..., 0]) * mask  # (B, T)
        self._adam(self._gradient(inputs, states, -errors[..., None] * np.eye(q.shape[2])[action] / mask.sum()))
        return Updated(np.square(errors).sum() / mask.sum(), np.abs(errors).max(axis=1))

    def _gradient(self, inputs: Array, states: list[Array], slopes: Array) -> Weights:
        gradient, later = {name: np.zeros_like(array) for name, array in self.net.items()}, 0.0
        for t in reversed(range(slopes.shape[1])):
            gradient["V"] += slopes[:, t].T @ states[t + 1]
            inner = (slopes[:, t] @ self.net["V"] + later) * (1.0 - states[t + 1] ** 2)
            gradient["W"] += inner.T @ inputs[:, t]
            gradient["U"] += inner.T @ states[t]
            gradient["b"] += inner.sum(axis=0)
            later = inner @ self.net["U"]
        return gradient

    def _adam(self, gradient: Weights) -> None:
        self.updates += 1
        for name, slope in gradient.items():
            self.first[name] += 0.1 * (slope - self.first[name])
            self.second[name] += 0.001 * (slope**2 - self.second[name])
            first = self.first[name] / (1 - 0.9 ** self.updates[0])
            self.net[name] -= 0.01 * first / (np.sqrt(self.second[name] / (1 - 0.999 ** self.updates[0])) + 1e-8)

    def weights(self) -> Weights:
        return {name: array.copy() for name, array in self.net.items()}

    def state(self) -> Weights:
        parts = {"net": self.net, "first": self.first, "second": self.second}
        kept = {f"{part}.{name}": array.copy() for part, arrays in parts.items() for name, array in arrays.items()}
        return {**kept, "updates": self.updates.copy()}

    def load_state(self, state: Weights) -> None:
        for part, arrays in {"net": self.net, "first": self.first, "second": self.second}.items():
            for name, array in arrays.items():
                array[...] = state[f"{part}.{name}"]
        self.updates[:] = state["updates"]


class QuadraticActor:
    """a = K s + noise; K climbs the slope in a of a critic that is quadratic in it: a deterministic policy gradient."""

    storage: Storage = "n_steps"

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self.config, self.task = config, task
        self.weights_fields: Fields = {"K": ("float32", (*task.action_shape, task.obs_size))}
        self.extras_fields: Fields = {}
        obs, action = (task.obs_dtype, task.obs_shape), (task.action_dtype, task.action_shape)
        self.transition_fields: Fields = {
            "obs": obs, "action": action, "reward": ("float32", ()), "next_obs": obs, "discount": ("float32", ()),
        }  # fmt: skip

    def prepare(self, weights: Weights) -> Weights:
        return weights

    def act(self, weights: Weights, obs: Array, extras: Batch, explore: Any, rng: np.random.Generator) -> Acted:
        noise = explore * rng.normal(size=(len(obs), *self.task.action_shape))
        return self._inside(obs @ weights["K"].T + noise), {}

    def act_at_random(self, num_envs: int, rng: np.random.Generator) -> Acted:
        return self._inside(rng.normal(size=(num_envs, *self.task.action_shape))), {}

    def _inside(self, actions: Array) -> Array:
        return np.clip(actions, self.task.action_low, self.task.action_high).astype(np.float32)

    def exploration(self, env_steps: int) -> float:
        return 0.5

    def init(self) -> QuadraticActorLearner:
        return QuadraticActorLearner(self)


class QuadraticActorLearner:
    def __init__(self, algorithm: QuadraticActor) -> None:
        self.kept = {name: np.zeros(shape, dtype) for name, (dtype, shape) in algorithm.weights_fields.items()}

    def update(self, batch: Batch, env_steps: int) -> Updated:
        obs, action, reward = batch["obs"], batch["action"], batch["reward"]  # each episode is one step
        assert action.shape == (len(obs), 1) and action.dtype == np.float32 and not batch["discount"].any()
        squares = np.stack([obs[:, 0] ** 2, obs[:, 1] ** 2, obs[:, 0] * obs[:, 1]], axis=1)
        features = np.concatenate([np.ones_like(action), obs, squares, action, action**2, action * obs], axis=1)
        critic = np.linalg.lstsq(features, reward, rcond=None)[0]
        errors = reward - features @ critic
        chosen = obs @ self.kept["K"].T
        slope = critic[6] + 2 * critic[7] * chosen + obs @ critic[8:, None]  # (B, 1) of the critic in the action
        self.kept["K"] += slope.T @ obs / len(obs)
        return Updated(np.square(errors).mean(), errors)

    def weights(self) -> Weights:
        return {name: array.copy() for name, array in self.kept.items()}

    state = weights

    def load_state(self, state: Weights) -> None:
        self.kept["K"][...] = state["K"]
