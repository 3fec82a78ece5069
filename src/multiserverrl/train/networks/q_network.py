"""The network of the DQN family: an encoder and a head on it, in torch or, where the encoder is an MLP, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks.choice import encoder_for, is_plain
from multiserverrl.train.networks.heads import Head, linear, relu
from multiserverrl.train.networks.plain import Array, Fields, numbers_of
from multiserverrl.train.task import Task

if TYPE_CHECKING:
    import torch

    from multiserverrl.train.networks.encoders import Observation

__all__ = ["QNetwork"]


class QNetwork:
    """`trunk` has the names of the encoder's layers where NumPy can compute them (`is_plain`)."""

    def __init__(self, config: TrainConfig, task: Task) -> None:
        self._encoder = encoder_for(config, task)
        self.head = Head(
            self._encoder.size,
            task.num_actions,
            1 if config.distributional == "none" else config.atoms,
            hidden=config.head_hidden,
            is_dueling=config.dueling,
            noisy_sigma=config.noisy_sigma if config.noisy else 0.0,
        )
        self.is_plain = is_plain(config, task)
        self.trunk = [f"encoder.layer{layer}" for layer in range(len(config.hidden_sizes))] if self.is_plain else []
        self.fields: Fields = self._encoder.fields | self.head.fields

    def fresh(self, rng: np.random.Generator) -> dict[str, Array]:
        """Weights to begin with; the same for the same generator."""
        return self._encoder.fresh(rng) | self.head.fresh(rng)

    def in_torch(self, weights: Mapping[str, torch.Tensor], obs: Observation) -> torch.Tensor:
        """Observations as `tensors_of` gives them → (B, num_actions, atoms)."""
        values: torch.Tensor = self.head.forward(weights, self._encoder.forward(weights, obs))
        return values

    def in_numpy(self, weights: Mapping[str, Array], obs: Array) -> Array:
        """(B, *obs_shape) → (B, num_actions, atoms), of a plain network."""
        values: Any = numbers_of(obs)
        for name in self.trunk:
            values = relu(linear(weights, name, values))
        found: Array = self.head.forward(weights, values)
        return found
