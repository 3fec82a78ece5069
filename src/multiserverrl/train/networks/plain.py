"""Fully connected networks on plain weights: a dict of float32 arrays that any process can read.

Acting is NumPy alone, four times faster than torch for one observation (7 µs against 30); the
learner wraps the same arrays in torch tensors (`algorithms`).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Fields", "fresh", "mlp", "mlp_fields", "new_mlp", "numbers_of"]

Array = NDArray[Any]
Fields = dict[str, tuple[str, tuple[int, ...]]]  # name → (dtype, shape)


def fresh(rng: np.random.Generator, fields: Fields) -> dict[str, Array]:
    """Fresh weights, uniform within 1/√inputs of each layer: what torch.nn.Linear and Conv2d start with.

    A layer's weight (out, in, ...) comes before its bias in `fields`; a norm's `scale` and `shift` change nothing yet.
    """
    weights = {}
    bound = 0.0
    for name, (dtype, shape) in fields.items():
        if len(shape) > 1:
            bound = 1.0 / np.sqrt(math.prod(shape[1:]))
        kind = name.rpartition(".")[2]
        drawn = rng.uniform(-bound, bound, shape) if kind in ("weight", "bias") else np.full(shape, kind == "scale")
        weights[name] = drawn.astype(dtype)
    return weights


def mlp_fields(inputs: int, hidden: tuple[int, ...], outputs: int) -> Fields:
    """(dtype, shape) of each array: `layer0.weight` (out, in), `layer0.bias` (out,), ..."""
    fields: Fields = {}
    for layer, (size_in, size_out) in enumerate(itertools.pairwise((inputs, *hidden, outputs))):
        fields[f"layer{layer}.weight"] = ("float32", (size_out, size_in))
        fields[f"layer{layer}.bias"] = ("float32", (size_out,))
    return fields


def new_mlp(rng: np.random.Generator, inputs: int, hidden: tuple[int, ...], outputs: int) -> dict[str, Array]:
    """Fresh weights of an `mlp`."""
    return fresh(rng, mlp_fields(inputs, hidden, outputs))


def numbers_of(obs: Array) -> Array:
    """(B, ...) → (B, inputs) float32; bytes come scaled to 0..1, as every network of ours sees them."""
    if obs.ndim == 2 and obs.dtype == np.float32:
        return obs
    flat = obs.reshape(len(obs), math.prod(obs.shape[1:])).astype(np.float32, copy=False)  # B may be 0
    return flat * np.float32(1 / 255) if obs.dtype == np.uint8 else flat


def mlp(weights: dict[str, Array], inputs: Array) -> Array:
    """(B, inputs) → (B, outputs), a ReLU after each layer but the last."""
    last = sum(name.endswith(".weight") for name in weights) - 1
    values = inputs
    for layer in range(last + 1):
        values = values @ weights[f"layer{layer}.weight"].T
        values += weights[f"layer{layer}.bias"]
        if layer < last:
            np.maximum(values, 0.0, out=values)
    return values
