"""The DQN family's learner in NumPy: forward, backward and Adam on one page, for plain networks on the CPU.

The same updates as the torch learner (equal within 1e-5 over 100 of them), about twice as many a second in a
whole run on CartPole (bench/train.py), and no process imports torch. Double, dueling and prioritised are here;
distributions and noise are torch's. Equations as in `dqn`; Adam: Kingma and Ba (ICLR 2015), algorithm 1.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from multiserverrl.train.algorithms.protocol import Array, Batch, Fields, Updated, Weights
from multiserverrl.train.algorithms.schedules import learning_rate_at
from multiserverrl.train.algorithms.target_range import TargetRange
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks.plain import numbers_of
from multiserverrl.train.networks.q_network import QNetwork
from multiserverrl.train.task import Task

__all__ = ["NumpyDQNLearner", "require_same"]

_BETA_1, _BETA_2 = 0.9, 0.999
_NEW_FIRST, _NEW_SECOND = 1.0 - _BETA_1, 1.0 - _BETA_2
# Dead ReLUs leave zeros in the gradient, Adam's moments would decay into denormals: 1.7 times slower. These, added now
# and then, keep them above, far below anything that moves a weight. (Added to the gradient, their squares would be
# denormals themselves.)
_LEAST_FIRST, _LEAST_SECOND, _RENEWED_EVERY = np.float32(1e-20), np.float32(1e-30), 16


class _Layer(NamedTuple):
    """(out, in) weight and (out,) bias, and where their gradients go."""

    weight: Array
    bias: Array
    weight_slope: Array
    bias_slope: Array


class _Layers(NamedTuple):
    """The trunk has a ReLU after each, a stream (of actions, and where dueling of the state) after all but its last."""

    trunk: list[_Layer]
    streams: list[list[_Layer]]


class NumpyDQNLearner:
    """The half that learns. Parameters, gradients and moments are flat arrays; the layers are views of them."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self.config, self.network = config, QNetwork(config, task)
        fresh = self.network.fresh(np.random.default_rng([config.seed, 0]))
        self._parameters = np.concatenate([array.ravel() for array in fresh.values()])
        self._wanted = self._parameters.copy()  # the target network
        self._gradient, self._first, self._second, self._scratch = (np.zeros_like(self._parameters) for _ in range(4))
        self.online, self.target = self._views(self._parameters), self._views(self._wanted)
        self._online, self._target = self._layers(self.online), self._layers(self.target)
        self._range = TargetRange(config)
        self.steps = 0  # of Adam
        self.updates = 0

    def update(self, batch: Batch, env_steps: int) -> Updated:
        obs, next_obs = numbers_of(batch["obs"]), numbers_of(batch["next_obs"])  # (B, obs_size)
        B = len(obs)
        rows, _ = _numbers_and_ones(B)
        # Double (equation 4, the target network as its second): the online network chooses the action, the target
        # network says what it is worth. Without it the target network does both.
        next_values = _values(self._target, next_obs)[0]  # (B, A)
        if self.config.double:  # all at once: 15 µs of 340 less than one after the other
            both, inputs = _values(self._online, np.concatenate([obs, next_obs]))
            values, judged, inputs = both[:B], both[B:], [[array[:B] for array in row] for row in inputs]
        else:
            (values, inputs), judged = _values(self._online, obs), next_values
        wanted = batch["reward"] + batch["discount"] * next_values[rows, judged.argmax(axis=1)]  # (B,)
        least, most = self._range.with_batch(batch["reward"], batch["discount"])
        wanted = np.minimum(np.maximum(wanted, np.float32(least)), np.float32(most))  # np.clip takes twice as long
        error = values[rows, batch["action"]] - wanted  # (B,)
        cut = np.minimum(np.maximum(error, -1.0), 1.0)  # the slope of Huber's loss
        losses = cut * (error - 0.5 * cut)
        share = batch.get("importance", np.float32(1.0)) / np.float32(B)  # of each in the loss
        slope = np.zeros(values.shape, np.float32)  # (B, A) of the loss in the values, scaled as `_adam` wants it
        slope[rows, batch["action"]] = cut * (share * np.float32(_NEW_FIRST))
        _backward(self._online, inputs, slope)
        self._adam(learning_rate_at(self.config, env_steps))
        self.updates += 1
        if self.updates % self.config.target_update == 0:
            self._wanted[:] = self._parameters
        return Updated(float(np.add.reduce(losses * share)), -error)

    def _adam(self, learning_rate: float) -> None:
        """In as few passes over the flat arrays as can be: each takes about 3 µs of an update's 350 for 17,000 weights.

        `self._gradient` holds (1 - β₁)·g, as the slope was scaled. The bias corrections stand in numbers alone.
        """
        self.steps += 1
        gradient, first, second, scratch = self._gradient, self._first, self._second, self._scratch
        if self.config.max_grad_norm:
            length = math.sqrt(np.dot(gradient, gradient)) / _NEW_FIRST
            gradient *= np.float32(min(1.0, self.config.max_grad_norm / (length + 1e-6)))  # as torch does
        first *= np.float32(_BETA_1)
        first += gradient
        second *= np.float32(_BETA_2)
        gradient *= gradient
        gradient *= np.float32(_NEW_SECOND / _NEW_FIRST**2)
        second += gradient
        if self.steps % _RENEWED_EVERY == 0:
            first += _LEAST_FIRST
            second += _LEAST_SECOND
        correction = math.sqrt(1.0 - _BETA_2**self.steps)
        np.sqrt(second, out=scratch)
        scratch += np.float32(self.config.adam_epsilon * correction)
        np.divide(first, scratch, out=scratch)
        scratch *= np.float32(learning_rate * correction / (1.0 - _BETA_1**self.steps))
        self._parameters -= scratch

    def weights(self) -> Weights:
        return {name: array.copy() for name, array in self.online.items()}

    def state(self) -> dict[str, Array]:
        """As the torch learner's: either goes on from the other's checkpoint."""
        state: dict[str, Array] = {"updates": np.array([self.updates]), **self._range.state()}
        first, second = self._views(self._first), self._views(self._second)
        for name in self.network.fields:
            state[f"online.{name}"], state[f"target.{name}"] = self.online[name].copy(), self.target[name].copy()
            state[f"adam.exp_avg.{name}"], state[f"adam.exp_avg_sq.{name}"] = first[name].copy(), second[name].copy()
            state[f"adam.step.{name}"] = np.array(self.steps, np.float32)
        return state

    def load_state(self, state: dict[str, Array]) -> None:
        require_same(self.network.fields, state)
        first, second = self._views(self._first), self._views(self._second)
        for name in self.network.fields:
            self.online[name][...], self.target[name][...] = state[f"online.{name}"], state[f"target.{name}"]
            first[name][...], second[name][...] = state[f"adam.exp_avg.{name}"], state[f"adam.exp_avg_sq.{name}"]
            self.steps = int(state[f"adam.step.{name}"])
        self.updates = int(state["updates"][0])
        self._range.load_state(state)

    def _views(self, flat: Array) -> Weights:
        """One view a layer's array, in the order of the fields."""
        views, begin = {}, 0
        for name, (_, shape) in self.network.fields.items():
            end = begin + math.prod(shape)
            views[name] = flat[begin:end].reshape(shape)
            begin = end
        return views

    def _layers(self, weights: Weights) -> _Layers:
        slopes = self._views(self._gradient)

        def layers(names: list[str]) -> list[_Layer]:
            both = ((f"{name}.weight", f"{name}.bias") for name in names)
            return [_Layer(weights[weight], weights[bias], slopes[weight], slopes[bias]) for weight, bias in both]

        return _Layers(layers(self.network.trunk), [layers(stream) for stream in self.network.head.streams])


def require_same(fields: Fields, state: dict[str, Array]) -> None:
    """ValueError when the weights of `state` are not of these fields."""
    for name, (_, shape) in fields.items():
        kept = state.get(f"online.{name}")
        if kept is None or kept.shape != shape:
            found = "missing" if kept is None else f"{kept.shape}"
            raise ValueError(f"weights {name!r} are {found}, this run's network has {shape}")


@functools.lru_cache(maxsize=8)
def _numbers_and_ones(B: int) -> tuple[Array, Array]:
    """Constants of an update, (B,) each."""
    rows, ones = np.arange(B), np.ones(B, np.float32)
    rows.flags.writeable = ones.flags.writeable = False
    return rows, ones


Inputs = list[Array]  # what went into each of a row of layers


def _values(layers: _Layers, obs: Array) -> tuple[Array, list[Inputs]]:
    """(B, obs_size) → (B, A) values, and what went into the layers of the trunk and of each stream."""
    trunk, features = _through(layers.trunk, obs)
    np.maximum(features, 0.0, out=features)
    streams = [_through(stream, features) for stream in layers.streams]
    values = streams[0][1]
    if len(streams) > 1:  # Wang et al., equation 9
        values = streams[1][1] + values - values.mean(axis=1, keepdims=True)
    return values, [trunk, *(inputs for inputs, _ in streams)]


def _backward(layers: _Layers, inputs: list[Inputs], slope: Array) -> None:
    """The gradient, from the (B, A) slope of the loss in the values."""
    trunk, *streams = inputs
    features = streams[0][0]
    below = slope
    if len(streams) > 1:
        below = slope - slope.mean(axis=1, keepdims=True)
    towards = _back(layers.streams[0], streams[0], below)
    if len(streams) > 1:
        towards += _back(layers.streams[1], streams[1], slope.sum(axis=1, keepdims=True))
    towards *= features > 0.0
    _back(layers.trunk, trunk, towards, is_first=True)


def _through(layers: list[_Layer], values: Array) -> tuple[Inputs, Array]:
    """What went into each layer, and what came out of the last before any ReLU."""
    inputs = []
    for number, layer in enumerate(layers):
        if number:
            np.maximum(values, 0.0, out=values)
        inputs.append(values)
        values = values @ layer.weight.T
        values += layer.bias
    return inputs, values


def _back(layers: list[_Layer], inputs: Inputs, slope: Array, *, is_first: bool = False) -> Array:
    """The slope in what went into the first layer; where nothing `is_first` before it, that is not computed."""
    _, ones = _numbers_and_ones(len(slope))  # a product with them takes a third of the time of a sum
    for number in reversed(range(len(layers))):
        layer = layers[number]
        np.matmul(slope.T, inputs[number], out=layer.weight_slope)
        np.matmul(ones, slope, out=layer.bias_slope)
        if number or not is_first:
            slope = slope @ layer.weight
        if number:
            slope *= inputs[number] > 0.0
    return slope
