"""PQN's network and its optimiser in NumPy: forward, backward, clipping and RAdam on one page, for plain networks.

The same updates as the torch arithmetic (equal within 1e-5 over 100 of them), and no process imports torch.
LayerNorm: Ba, Kiros and Hinton, "Layer Normalization" (2016). RAdam: Liu et al., "On the Variance of the Adaptive
Learning Rate and Beyond" (ICLR 2020), algorithm 2. Clipping: Pascanu, Mikolov and Bengio (ICML 2013), algorithm 1.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from multiserverrl.train.algorithms.protocol import Array, Fields, Weights
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks import fresh, numbers_of
from multiserverrl.train.networks.choice import encoder_for
from multiserverrl.train.task import Task

__all__ = ["NumpyArithmetic", "network_fields", "q_values"]

_LEAST_VARIANCE = np.float32(1e-5)
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
_LONGEST_AVERAGE = 2.0 / (1.0 - _BETA_2) - 1.0  # of RAdam's moving second moment: ρ∞
# Dead ReLUs leave zeros in the gradient, the moments would decay into denormals, and a step of the optimiser take four
# times as long. These keep them above, and are far below anything that moves a weight.
_LEAST_FIRST, _LEAST_SECOND = np.float32(1e-20), np.float32(1e-30)


def network_fields(config: TrainConfig, task: Task) -> Fields:
    """(dtype, shape): an encoder's with LayerNorm in every layer, `head.weight` (A, features) and `head.bias` (A,)."""
    encoder = encoder_for(config, task, layer_norm=True)
    head: Fields = {"head.weight": ("float32", (task.num_actions, encoder.size))}
    return {**encoder.fields, **head, "head.bias": ("float32", (task.num_actions,))}


def q_values(weights: Weights, obs: Array) -> Array:
    """(B, ...) → (B, A) of a plain network. Each hidden layer: linear, LayerNorm, ReLU."""
    return _forward(weights, numbers_of(obs))[1]


class _Kept(NamedTuple):
    """What the way back needs of a hidden layer."""

    normed: Array  # (B, H) before scale and shift
    inverse: Array  # (B, 1) of the standard deviation


def _forward(weights: Weights, values: Array) -> tuple[list[Array], Array, list[_Kept]]:
    """What went into each layer; the outputs (B, A); what is kept of each hidden layer."""
    inputs, kept = [values], []
    for layer in range(sum(name.endswith(".scale") for name in weights)):
        name = f"encoder.layer{layer}"
        normed = values @ weights[f"{name}.weight"].T
        normed += weights[f"{name}.bias"]
        normed -= normed.mean(axis=1, keepdims=True)
        variance = np.einsum("bh,bh->b", normed, normed)[:, None] / np.float32(normed.shape[1])  # (B, 1)
        inverse = 1.0 / np.sqrt(variance + _LEAST_VARIANCE)
        normed *= inverse
        values = normed * weights[f"{name}.scale"]
        values += weights[f"{name}.shift"]
        np.maximum(values, 0.0, out=values)
        inputs.append(values)
        kept.append(_Kept(normed, inverse))
    return inputs, values @ weights["head.weight"].T + weights["head.bias"], kept


class NumpyArithmetic:
    """Parameters, gradients and moments are flat arrays; the layers are views of them. See `pqn.Arithmetic`."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self._max_norm = config.max_grad_norm
        self._fields = network_fields(config, task)
        begin = fresh(np.random.default_rng([config.seed, 0]), self._fields)
        self._parameters = np.concatenate([begin[name].ravel() for name in self._fields])
        self._gradient, self._first, self._second, self._scratch = (np.zeros_like(self._parameters) for _ in range(4))
        self._online, self._slopes = self._views(self._parameters), self._views(self._gradient)
        self._steps = 0

    def values(self, obs: Array) -> Array:
        return q_values(self._online, obs)

    def descend(self, obs: Array, action: Array, wanted: Array, learning_rate: float) -> float:
        inputs, outputs, kept = _forward(self._online, numbers_of(obs))
        rows, B = np.arange(len(outputs)), np.float32(len(outputs))
        error = outputs[rows, action] - wanted  # (B,)
        slope = np.zeros_like(outputs)  # (B, A) of the mean of squares in the outputs
        slope[rows, action] = error * (np.float32(2.0) / B)
        self._backward(inputs, kept, slope)
        self._clip()
        self._radam(learning_rate)
        return float(np.dot(error, error) / B)

    def _backward(self, inputs: list[Array], kept: list[_Kept], slope: Array) -> None:
        """The gradient, from the slope of the loss in the outputs."""
        self._note("head", inputs[-1], slope)
        weight = self._online["head.weight"]
        for layer in reversed(range(len(kept))):
            name = f"encoder.layer{layer}"
            slope = slope @ weight
            slope *= inputs[layer + 1] > 0.0
            slope = self._through_norm(name, kept[layer], slope)
            self._note(name, inputs[layer], slope)
            weight = self._online[f"{name}.weight"]

    def _note(self, name: str, inputs: Array, slope: Array) -> None:
        """The gradient of a linear layer, from the slope in its outputs (B, out)."""
        np.matmul(slope.T, inputs, out=self._slopes[f"{name}.weight"])
        np.matmul(_ones(slope), slope, out=self._slopes[f"{name}.bias"])

    def _through_norm(self, name: str, kept: _Kept, slope: Array) -> Array:
        """From the slope in a LayerNorm's outputs to the slope in its inputs, both (B, H)."""
        normed, inverse = kept
        np.matmul(_ones(slope), slope, out=self._slopes[f"{name}.shift"])
        np.einsum("bh,bh->h", slope, normed, out=self._slopes[f"{name}.scale"])
        slope *= self._online[f"{name}.scale"]
        along = np.einsum("bh,bh->b", slope, normed)[:, None] / np.float32(slope.shape[1])  # (B, 1)
        slope -= slope.mean(axis=1, keepdims=True)
        normed *= along
        slope -= normed
        slope *= inverse
        return slope

    def _clip(self) -> None:
        """Pascanu et al., algorithm 1, over all parameters together."""
        norm = math.sqrt(float(np.dot(self._gradient, self._gradient)))
        if 0.0 < self._max_norm < norm:
            self._gradient *= np.float32(self._max_norm / (norm + 1e-6))

    def _radam(self, learning_rate: float) -> None:
        self._steps += 1
        gradient, first, second, scratch = self._gradient, self._first, self._second, self._scratch
        first *= np.float32(_BETA_1)
        np.multiply(gradient, np.float32(1.0 - _BETA_1), out=scratch)
        first += scratch
        first += _LEAST_FIRST
        second *= np.float32(_BETA_2)
        gradient *= gradient
        gradient *= np.float32(1.0 - _BETA_2)
        second += gradient
        second += _LEAST_SECOND
        size = learning_rate / (1.0 - _BETA_1**self._steps)
        if (rectified := _rectification(self._steps)) is None:
            np.multiply(first, np.float32(size), out=scratch)
        else:
            np.sqrt(second, out=scratch)
            scratch += np.float32(_EPSILON)
            np.divide(first, scratch, out=scratch)
            scratch *= np.float32(size * rectified * math.sqrt(1.0 - _BETA_2**self._steps))
        self._parameters -= scratch

    def weights(self) -> Weights:
        return {name: array.copy() for name, array in self._online.items()}

    def state(self) -> dict[str, Array]:
        first, second = self._views(self._first), self._views(self._second)
        state: dict[str, Array] = {"steps": np.array([self._steps])}
        for name, array in self._online.items():
            state[f"online.{name}"] = array.copy()
            state[f"radam.first.{name}"], state[f"radam.second.{name}"] = first[name].copy(), second[name].copy()
        return state

    def load_state(self, state: dict[str, Array]) -> None:
        first, second = self._views(self._first), self._views(self._second)
        for name, array in self._online.items():
            array[...] = state[f"online.{name}"]
            first[name][...], second[name][...] = state[f"radam.first.{name}"], state[f"radam.second.{name}"]
        self._steps = int(state["steps"][0])

    def _views(self, flat: Array) -> Weights:
        """One view a layer's array, in the order of the fields."""
        views, begin = {}, 0
        for name, (_, shape) in self._fields.items():
            end = begin + math.prod(shape)
            views[name] = flat[begin:end].reshape(shape)
            begin = end
        return views


def _ones(rows: Array) -> Array:
    """One for each row: a product with them takes a third of the time of a sum."""
    return np.ones(len(rows), np.float32)


def _rectification(steps: int) -> float | None:
    """RAdam's r_t; None in the first steps, where the second moment says too little: they go by the first alone."""
    decay = _BETA_2**steps
    average = _LONGEST_AVERAGE - 2.0 * steps * decay / (1.0 - decay)  # ρ_t
    if average <= 5.0:  # torch's bound; the paper's is 4
        return None
    longest = _LONGEST_AVERAGE
    return math.sqrt((average - 4.0) * (average - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * average))
