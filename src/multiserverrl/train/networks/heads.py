"""Heads: from features to the values of the actions. Functions over plain weights, alike for arrays and tensors.

A head is one stream of layers, or two (dueling), whose last gives one number or several (atoms) for each action. A
noisy one (Fortunato et al., "Noisy networks for exploration", ICLR 2018) has a sigma beside each weight; `with_noise`
makes plain weights of both, so that nothing else knows of the noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from multiserverrl.train.networks.plain import Array, Fields, fresh, mlp_fields

__all__ = ["Head", "linear", "relu"]


class Head:
    """(B, inputs) features → (B, num_actions, atoms). `fields` are its weights, `streams` the names of its layers.

    `hidden` is the size of a hidden layer in each stream, 0 for none; `noisy_sigma` the σ₀ of noisy layers, 0 for none.
    """

    def __init__(
        self, inputs: int, num_actions: int, atoms: int, *, hidden: int, is_dueling: bool, noisy_sigma: float
    ) -> None:
        self._num_actions, self._atoms, self._sigma = num_actions, atoms, noisy_sigma
        outputs = {"head.actions": num_actions * atoms} | ({"head.value": atoms} if is_dueling else {})
        self.fields: Fields = {}
        self.streams: list[list[str]] = []
        for stream, size in outputs.items():
            layers = mlp_fields(inputs, (hidden,) if hidden else (), size)
            self.fields |= {f"{stream}.{name}": field for name, field in layers.items()}
            self.streams.append([f"{stream}.layer{layer}" for layer in range(len(layers) // 2)])
        self._noisy = [name for stream in self.streams for name in stream] if noisy_sigma else []
        self._sizes: dict[str, tuple[int, ...]] = {name: self.fields[f"{name}.weight"][1] for name in self._noisy}
        for name, shape in self._sizes.items():
            self.fields |= {f"{name}.weight_sigma": ("float32", shape), f"{name}.bias_sigma": ("float32", shape[:1])}

    def fresh(self, rng: np.random.Generator) -> dict[str, Array]:
        """As torch's layers begin; σ as Fortunato et al., section 3.2, for factorised noise."""
        weights = fresh(rng, {name: field for name, field in self.fields.items() if not name.endswith("_sigma")})
        for name, (outputs, inputs) in self._sizes.items():
            sigma = self._sigma / np.sqrt(inputs)
            weights[f"{name}.weight_sigma"] = np.full((outputs, inputs), sigma, np.float32)
            weights[f"{name}.bias_sigma"] = np.full(outputs, sigma, np.float32)
        return weights

    def noise(self, rng: np.random.Generator) -> dict[str, Array]:
        """f(ε) of each noisy layer's outputs and inputs, f(x) = sgn(x)√|x|: equations 10 and 11."""
        drawn = {}
        for name, (outputs, inputs) in self._sizes.items():
            numbers = rng.standard_normal(outputs + inputs, np.float32)
            numbers = np.copysign(np.sqrt(np.abs(numbers)), numbers)
            drawn[f"{name}.outputs"], drawn[f"{name}.inputs"] = numbers[:outputs], numbers[outputs:]
        return drawn

    def with_noise(self, weights: Mapping[str, Any], noise: Mapping[str, Any]) -> Mapping[str, Any]:
        """All of `weights`, the noisy layers' replaced by μ + σ ⊙ ε (equation 9); as they are without noise."""
        if not noise:
            return weights
        found = dict(weights)
        for name in self._noisy:
            outputs, inputs = noise[f"{name}.outputs"], noise[f"{name}.inputs"]
            found[f"{name}.weight"] = weights[f"{name}.weight"] + weights[f"{name}.weight_sigma"] * (
                outputs[:, None] * inputs
            )
            found[f"{name}.bias"] = weights[f"{name}.bias"] + weights[f"{name}.bias_sigma"] * outputs
        return found

    def forward(self, weights: Mapping[str, Any], features: Any) -> Any:
        """(B, inputs) → (B, num_actions, atoms), arrays or tensors as `features` are."""
        streams = [self._through(weights, stream, features) for stream in self.streams]
        actions = streams[0].reshape(-1, self._num_actions, self._atoms)
        if len(streams) == 1:
            return actions
        # Wang et al., "Dueling network architectures" (ICML 2016), equation 9
        return streams[1].reshape(-1, 1, self._atoms) + actions - actions.mean(1, keepdims=True)

    def _through(self, weights: Mapping[str, Any], stream: list[str], values: Any) -> Any:
        for name in stream[:-1]:
            values = relu(linear(weights, name, values))
        return linear(weights, stream[-1], values)


def linear(weights: Mapping[str, Any], name: str, values: Any) -> Any:
    """(B, in) → (B, out), arrays or tensors."""
    weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    if isinstance(values, np.ndarray):
        outputs = values @ weight.T
        outputs += bias
        return outputs
    import torch.nn.functional as F

    return F.linear(values, weight, bias)


def relu(values: Any) -> Any:
    """In place."""
    return np.maximum(values, 0.0, out=values) if isinstance(values, np.ndarray) else values.relu_()
