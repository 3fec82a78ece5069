"""Q-learning on fixed random features, in NumPy: an algorithm that `multiserverrl train --algorithm linear-q` finds."""

import numpy as np

from multiserverrl.errors import ConfigError
from multiserverrl.train.algorithms.protocol import Updated


class LinearQ:  # the half that acts, which every process may hold
    storage = "n_steps"  # the trainer makes transitions over --n-step steps, and keeps them in its replay buffer

    def __init__(self, config, task):
        if not task.is_discrete or task.obs_parts or set(config.options) - {"features"}:
            raise ConfigError("linear-q is for one Box and Discrete actions, and has --option features=N alone")
        self.config, self.task, self.size = config, task, int(config.options.get("features", 300))
        rng = np.random.default_rng(7)
        self.directions = rng.normal(size=(task.obs_size, self.size)).astype(np.float32)
        self.phases = rng.uniform(0, 2 * np.pi, self.size).astype(np.float32)
        self.weights_fields = {"q": ("float32", (self.size, task.num_actions)), "scale": ("float32", (task.obs_size,))}
        self.extras_fields = {}  # nothing of acting is kept beside the actions
        obs = (task.obs_dtype, task.obs_shape)
        self.transition_fields = {"obs": obs, "action": ("int64", ()), "reward": ("float32", ())}
        self.transition_fields |= {"next_obs": obs, "discount": ("float32", ())}  # the discount is 0 after termination

    def features(self, weights, obs):  # (B, *obs_shape) → (B, size), of length 1 in the mean
        scaled = obs.reshape(len(obs), -1) / weights["scale"]
        return np.cos(2 * scaled @ self.directions + self.phases) * np.sqrt(2 / self.size, dtype=np.float32)

    def prepare(self, weights):
        return weights

    def act(self, weights, obs, extras, explore, rng):  # `explore` is 0 for greedy actions
        greedy = (self.features(weights, obs) @ weights["q"]).argmax(axis=1)  # (N,)
        return np.where(rng.random(len(obs)) < explore, self.act_at_random(len(obs), rng)[0], greedy), {}

    def act_at_random(self, num_envs, rng):
        return rng.integers(0, self.task.num_actions, num_envs), {}

    def exploration(self, env_steps):
        return max(0.02, 1 - env_steps / self.config.epsilon_steps)

    def init(self):
        return LinearQLearner(self)


class LinearQLearner:  # the half that learns, in the learner process
    def __init__(self, algorithm):
        self.of = algorithm
        self.kept = {name: np.full(shape, 0.01, dtype) for name, (dtype, shape) in algorithm.weights_fields.items()}

    def update(self, batch, env_steps):
        B, q, scale = len(batch["action"]), self.kept["q"], self.kept["scale"]
        np.maximum(scale, np.abs(batch["obs"].reshape(B, -1)).max(axis=0), out=scale)
        seen, next_seen = (self.of.features(self.kept, batch[name]) for name in ("obs", "next_obs"))
        wanted = batch["reward"] + batch["discount"] * (next_seen @ q).max(axis=1)  # (B,)
        errors = wanted - (seen @ q)[np.arange(B), batch["action"]]
        chosen = np.eye(q.shape[1], dtype=np.float32)[batch["action"]]  # (B, actions)
        q += 4 * seen.T @ (chosen * errors[:, None]) / B
        return Updated(loss=np.square(errors).mean(), errors=errors)

    def weights(self):
        return {name: array.copy() for name, array in self.kept.items()}

    state = weights  # all that a resume needs

    def load_state(self, state):  # a KeyError or ValueError: it is of another network
        for name, array in self.kept.items():
            array[...] = state[name]
