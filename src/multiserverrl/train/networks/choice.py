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

_CONVOLUTIONAL: dict[str, Callable[[Image, str], Encoder]] = {"small": small, "nature": nature, "impala": Impala}


def is_plain(config: TrainConfig, task: Task) -> bool:
    """True where the network is an `mlp` of one array of numbers, which NumPy computes as well as torch."""
    is_one = not task.obs_parts
    return is_one and _image_for(config, task.obs_dtype, task.obs_shape) is None


def encoder_for(config: TrainConfig, task: Task) -> Encoder:
    """ConfigError when `--network` names one that cannot take what the env shows."""
    images = {part.name: _image_for(config, part.dtype, part.shape) for part in task.obs_parts}
    is_image = any(image is not None for image in images.values())
    alone = None if task.obs_parts else _image_for(config, task.obs_dtype, task.obs_shape)
    if config.network in _CONVOLUTIONAL and alone is None and not is_image:
        shown = [f"{part.dtype}{part.shape}" for part in task.obs_parts] or [f"{task.obs_dtype}{task.obs_shape}"]
        raise ConfigError(
            f"--network is {config.network!r}, for images; the env's observations are {', '.join(shown)}: "
            "use --network auto or mlp"
        )
    if not task.obs_parts:
        return _convolutional(config, alone, "encoder") if alone else Mlp(task.obs_size, config.hidden_sizes)
    encoders: dict[str, Encoder] = {}
    for part in task.obs_parts:
        image = images[part.name]
        encoders[part.name] = (
            _convolutional(config, image, f"encoder.{part.name}") if image else Numbers(math.prod(part.shape))
        )
    return Parts(encoders, config.hidden_sizes[-1:] if is_image else config.hidden_sizes)


def _image_for(config: TrainConfig, dtype: str, shape: tuple[int, ...]) -> Image | None:
    return None if config.network == "mlp" else image_of(dtype, shape, config.image_channels)


def _convolutional(config: TrainConfig, image: Image, name: str) -> Encoder:
    kind = config.network
    if kind == "auto":
        kind = "nature" if min(image.size) >= NATURE_FROM else "small"
    try:
        return _CONVOLUTIONAL[kind](image, name)
    except ValueError as error:
        raise ConfigError(f"--network is {config.network!r}: it {error}; use --network small or impala") from error
