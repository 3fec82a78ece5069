"""Encoders: networks that turn observations into features, on plain weights.

An encoder declares its weights (`fields`), makes fresh ones, and computes features from any dict that holds them
(under other names, too: a learner's online and target network share one encoder). With `layer_norm` each layer has
one after it, before its ReLU: over all its outputs, a scale and a shift for each channel. torch is imported where
it computes. Which encoder an env gets is chosen in `choice`.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from multiserverrl.train.networks.images import Image, numbers, planes
from multiserverrl.train.networks.plain import Array, Fields, fresh

if TYPE_CHECKING:
    import torch

    Observation = torch.Tensor | dict[str, torch.Tensor]

__all__ = ["Encoder", "Impala", "Mlp", "Numbers", "Parts", "Stack", "nature", "small"]

NATURE_LEAST_SIDE = 36  # its three convolutions then end at 1 × 1
IMPALA_CHANNELS = (16, 32, 32)
SMALL_STRIDES_FROM = 20  # sides as long as this are halved by each convolution of `small`
SMALL_QUARTERS_FROM = 1000  # pixels; an update of 64 stacks of 20 × 90 × 2 takes 2.8 ms then, and 11 ms with halves


class Encoder(ABC):
    """Features of observations. `fields` are its weights, `size` the number of features."""

    fields: Fields
    size: int

    def fresh(self, rng: np.random.Generator) -> dict[str, Array]:
        """Weights to begin with, as torch's own layers would draw them; the same for the same generator."""
        return fresh(rng, self.fields)

    @abstractmethod
    def forward(self, weights: Mapping[str, torch.Tensor], obs: Observation) -> torch.Tensor:
        """(B, *obs_shape) as the env gives it, or (B, *shape) of each part → (B, size) float32."""


class Numbers(Encoder):
    """The numbers of an observation as they are (bytes scaled to 0..1): no weights."""

    def __init__(self, inputs: int) -> None:
        self.fields, self.size = {}, inputs

    def forward(self, weights: Mapping[str, torch.Tensor], obs: Observation) -> torch.Tensor:
        return numbers(_one(obs))


class Mlp(Encoder):
    """Fully connected layers, a ReLU after each: `encoder.layer0.weight` (out, in), `encoder.layer0.bias`, ..."""

    def __init__(
        self, inputs: int, hidden: tuple[int, ...], name: str = "encoder", *, layer_norm: bool = False
    ) -> None:
        self._layers = tuple(f"{name}.layer{number}" for number in range(len(hidden)))
        self.fields = {}
        for layer, (size_in, size_out) in zip(self._layers, itertools.pairwise((inputs, *hidden)), strict=True):
            self.fields |= _layer_fields(layer, (size_out, size_in), layer_norm)
        self.size = hidden[-1]

    def forward(self, weights: Mapping[str, torch.Tensor], obs: Observation) -> torch.Tensor:
        values = numbers(_one(obs))
        for layer in self._layers:
            values = _linear(weights, layer, values).relu_()
        return values


class Convolution(NamedTuple):
    """3 × 3, no stride and no padding unless it says otherwise."""

    outputs: int
    kernel: int = 3
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    def side(self, inputs: int, axis: int) -> int:
        """Length of the output along `axis` (0 height, 1 width)."""
        return (inputs + 2 * self.padding[axis] - self.kernel) // self.stride[axis] + 1


class Stack(Encoder):
    """Convolutions one after the other, then a fully connected layer; a ReLU after each."""

    def __init__(
        self, image: Image, convolutions: tuple[Convolution, ...], size: int, name: str, layer_norm: bool
    ) -> None:
        self._image, self._convolutions, self._name, self.size = image, convolutions, name, size
        fields: Fields = {}
        planes_in, (height, width) = image.planes, image.size
        for number, layer in enumerate(convolutions):
            shape = (layer.outputs, planes_in, layer.kernel, layer.kernel)
            fields |= _layer_fields(f"{name}.conv{number}", shape, layer_norm)
            planes_in, height, width = layer.outputs, layer.side(height, 0), layer.side(width, 1)
        self.fields = fields | _layer_fields(f"{name}.linear", (size, planes_in * height * width), layer_norm)

    def forward(self, weights: Mapping[str, torch.Tensor], obs: Observation) -> torch.Tensor:
        values = planes(_one(obs), self._image)
        for number, layer in enumerate(self._convolutions):
            values = _convolved(weights, f"{self._name}.conv{number}", values, layer.stride, layer.padding).relu_()
        return _linear(weights, f"{self._name}.linear", values.flatten(1)).relu_()


def nature(image: Image, name: str = "encoder", *, layer_norm: bool = False) -> Stack:
    """Mnih et al., "Human-level control through deep reinforcement learning" (Nature 2015).

    1 684 128 weights for 84 × 84 × 4. ValueError for images with a side below 36.
    """
    if min(image.size) < NATURE_LEAST_SIDE:
        least, (height, width) = NATURE_LEAST_SIDE, image.size
        raise ValueError(f"needs images of at least {least} x {least}, these are {height} x {width}")
    layers = (Convolution(32, 8, (4, 4)), Convolution(64, 4, (2, 2)), Convolution(64, 3))
    return Stack(image, layers, 512, name, layer_norm)


def small(image: Image, name: str = "encoder", *, layer_norm: bool = False) -> Stack:
    """Two 3 × 3 convolutions (16, 32) and 128: for MinAtar's 10 × 10 grids up to crops of a screen, from 3 × 3 on.

    The first is that of Young and Tian, "MinAtar" (2019); sides from 20 on are halved by each, shorter ones are not.
    Of images with such sides and 1000 pixels the first one makes a quarter, by 6 × 6.
    """
    if min(image.size) >= SMALL_STRIDES_FROM and image.size[0] * image.size[1] >= SMALL_QUARTERS_FROM:
        return Stack(image, (Convolution(16, 6, (4, 4)), Convolution(32, 3, (2, 2))), 128, name, layer_norm)
    strides = tuple(2 if side >= SMALL_STRIDES_FROM else 1 for side in image.size)
    first = Convolution(16, stride=(strides[0], strides[1]))
    paddings = tuple(1 if first.side(side, axis) < 3 else 0 for axis, side in enumerate(image.size))
    second = Convolution(32, stride=first.stride, padding=(paddings[0], paddings[1]))
    return Stack(image, (first, second), 128, name, layer_norm)


class Impala(Encoder):
    """The large network of figure 3 in Espeholt et al., "IMPALA" (ICML 2018), without its LSTM: 15 convolutions.

    Three times: a convolution, a max-pool that halves, two residual blocks; then 256. 982 592 weights for the
    paper's 72 × 96 × 3.
    """

    def __init__(self, image: Image, name: str = "encoder", *, layer_norm: bool = False) -> None:
        self._image, self._name, self.size = image, name, 256
        fields: Fields = {}
        planes_in, (height, width) = image.planes, image.size
        for number, planes_out in enumerate(IMPALA_CHANNELS):
            stage = f"{name}.stage{number}"
            fields |= _layer_fields(f"{stage}.conv", (planes_out, planes_in, 3, 3), layer_norm)
            for block in (0, 1):
                for conv in (0, 1):
                    layer = f"{stage}.block{block}.conv{conv}"
                    fields |= _layer_fields(layer, (planes_out, planes_out, 3, 3), layer_norm)
            planes_in, height, width = planes_out, -(-height // 2), -(-width // 2)
        self.fields = fields | _layer_fields(f"{name}.linear", (self.size, planes_in * height * width), layer_norm)

    def forward(self, weights: Mapping[str, torch.Tensor], obs: Observation) -> torch.Tensor:
        from torch.nn.functional import max_pool2d

        values = planes(_one(obs), self._image)
        for number in range(len(IMPALA_CHANNELS)):
            stage = f"{self._name}.stage{number}"
            values = max_pool2d(_convolved(weights, f"{stage}.conv", values, 1, 1), 3, stride=2, padding=1)
            for block in (0, 1):
                inner = _convolved(weights, f"{stage}.block{block}.conv0", values.relu(), 1, 1).relu_()
                values = values + _convolved(weights, f"{stage}.block{block}.conv1", inner, 1, 1)
        return _linear(weights, f"{self._name}.linear", values.relu_().flatten(1)).relu_()


class Parts(Encoder):
    """An observation of several parts: an encoder for each, and one on their features side by side."""

    def __init__(self, encoders: dict[str, Encoder], joined: Callable[[int], Encoder]) -> None:
        self._encoders = encoders
        self._joined = joined(sum(encoder.size for encoder in encoders.values()))
        self.fields = {}
        for encoder in encoders.values():
            self.fields |= encoder.fields
        self.fields |= self._joined.fields
        self.size = self._joined.size

    def forward(self, weights: Mapping[str, torch.Tensor], obs: Observation) -> torch.Tensor:
        import torch

        assert isinstance(obs, dict)
        features = [encoder.forward(weights, obs[part]) for part, encoder in self._encoders.items()]
        return self._joined.forward(weights, torch.cat(features, 1))


def _one(obs: Observation) -> torch.Tensor:
    assert not isinstance(obs, dict), "an observation of several parts, and an encoder of one"
    return obs


def _layer_fields(name: str, shape: tuple[int, ...], layer_norm: bool) -> Fields:
    """Of a layer whose weight is (out, in, ...)."""
    each_output = ("float32", shape[:1])
    fields: Fields = {f"{name}.weight": ("float32", shape), f"{name}.bias": each_output}
    return fields | ({f"{name}.scale": each_output, f"{name}.shift": each_output} if layer_norm else {})


def _linear(weights: Mapping[str, torch.Tensor], name: str, values: torch.Tensor) -> torch.Tensor:
    from torch.nn.functional import linear

    return _normed(weights, name, linear(values, weights[f"{name}.weight"], weights[f"{name}.bias"]))


def _convolved(
    weights: Mapping[str, torch.Tensor],
    name: str,
    values: torch.Tensor,
    stride: int | tuple[int, int],
    padding: int | tuple[int, int],
) -> torch.Tensor:
    from torch.nn.functional import conv2d

    return _normed(weights, name, conv2d(values, weights[f"{name}.weight"], weights[f"{name}.bias"], stride, padding))


def _normed(weights: Mapping[str, torch.Tensor], name: str, values: torch.Tensor) -> torch.Tensor:
    """Ba, Kiros and Hinton, "Layer Normalization" (2016), where the layer has a scale and a shift."""
    from torch.nn.functional import group_norm

    scale = weights.get(f"{name}.scale")
    return values if scale is None else group_norm(values, 1, scale, weights[f"{name}.shift"])
