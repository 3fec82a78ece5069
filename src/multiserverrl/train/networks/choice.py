"""Which encoder an env gets: `--network`, or by the shape of what it sees. Asked by the launcher too: no torch here."""

from __future__ import annotations

import math
from collections.abc import Callable

from multiserverrl.errors import ConfigError
from multiserverrl.train.config import TrainConfig
from multiserverrl.train.networks.encoders import Encoder, Impala, Mlp, Numbers, Parts, nature, small
from multiserverrl.train.networks.images import Image, image_of
from multiserverrl.train.task import Task

__all__ = ["encoder_for", "is_plain"]

NATURE_FROM = 64  # both sides of an image as long as this: nature, else small

_CONVOLUTIONAL: dict[str, Callable[..., Encoder]] = {"small": small, "nature": nature, "impala": Impala}


def is_plain(config: TrainConfig, task: Task) -> bool:
    """True where the network is an `mlp` of one array of numbers, which NumPy computes as well as torch."""
    return not task.obs_parts and not any(_images(config, task))


def encoder_for(config: TrainConfig, task: Task, *, layer_norm: bool = False) -> Encoder:
    """With a LayerNorm after each layer where the algorithm wants it.

    ConfigError when `--network` names one that cannot take what the env shows.
    """
    if config.network in _CONVOLUTIONAL and not any(_images(config, task)):
        shown = [f"{part.dtype}{part.shape}" for part in task.obs_parts] or [f"{task.obs_dtype}{task.obs_shape}"]
        raise ConfigError(
            f"--network is {config.network!r}, for images; the env's observations are {', '.join(shown)}: "
            "use --network auto or mlp"
        )
    if task.obs_parts:
        return _of_parts(config, task, layer_norm)
    [image] = _images(config, task)
    if image is None:
        return Mlp(task.obs_size, config.hidden_sizes, layer_norm=layer_norm)
    return _convolutional(config, image, "encoder", layer_norm)


def _of_parts(config: TrainConfig, task: Task, layer_norm: bool) -> Encoder:
    images = _images(config, task)
    encoders: dict[str, Encoder] = {}
    for part, image in zip(task.obs_parts, images, strict=True):
        if image is None:
            encoders[part.name] = Numbers(math.prod(part.shape))
        else:
            encoders[part.name] = _convolutional(config, image, f"encoder.{part.name}", layer_norm)
    hidden = config.hidden_sizes[-1:] if any(images) else config.hidden_sizes
    return Parts(encoders, lambda inputs: Mlp(inputs, hidden, layer_norm=layer_norm))


def _images(config: TrainConfig, task: Task) -> list[Image | None]:
    """Of each part of an observation; None for what is no image."""
    if config.network == "mlp":
        return [None for _ in task.obs_parts] or [None]
    if task.obs_parts:
        return [image_of(part.dtype, part.shape, config.image_channels) for part in task.obs_parts]
    frame = image_of(task.obs_dtype, task.frame_shape, config.image_channels)
    return [frame and frame._replace(frames=frame.frames * task.frame_stack)]


def _convolutional(config: TrainConfig, image: Image, name: str, layer_norm: bool) -> Encoder:
    kind = config.network
    if kind == "auto":
        kind = "nature" if min(image.size) >= NATURE_FROM else "small"
    try:
        return _CONVOLUTIONAL[kind](image, name, layer_norm=layer_norm)
    except ValueError as error:
        raise ConfigError(f"--network is {config.network!r}: it {error}; use --network small or impala") from error
